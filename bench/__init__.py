"""Measurements of the program by the program's own code. Each module is one word of the Makefile; see README.md."""
