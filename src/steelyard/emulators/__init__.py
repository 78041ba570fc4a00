"""Loopback servers shaped like vendors, for tests, for the demo and for nobody's money. Import nothing but kernel."""
