"""The HTTP dialects: translate, never decide."""
