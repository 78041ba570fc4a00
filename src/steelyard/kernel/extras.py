"""How to get a package that Steelyard can do without: into the environment that runs it, whichever is on the path."""

import shlex
import sys


def how_to_get(package: str) -> str:
    """The command, as one would type it."""
    return shlex.join([sys.executable, "-m", "pip", "install", package])
