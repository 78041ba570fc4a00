"""Steelyard runs foundation models and keeps their books."""

__version__ = "0.1.0"
