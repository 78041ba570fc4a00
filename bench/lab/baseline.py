"""The Python that the naive rungs of the ladder run with: one that a person names, or an environment made for them.

Owns its place and what has to be in it. Nothing of it is imported here.
"""

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard-bench" / "ladder"
PACKAGES = ("torch", "transformers", "gguf", "accelerate", "fastapi", "uvicorn")
NEEDED = ("torch", "transformers", "gguf", "fastapi", "uvicorn")


def _able(python: Path) -> bool:
    return not subprocess.run([str(python), "-I", "-c", f"import {', '.join(NEEDED)}"], check=False).returncode


def named(python: Path) -> Path:
    """The Python that a person named; nothing is installed into it. Raises SystemExit when it will not do."""
    try:
        fit = _able(python)
    except OSError as error:
        raise SystemExit(f"--baseline-python {python} cannot be run: {error.strerror}.") from None
    if not fit:
        raise SystemExit(f"--baseline-python {python} lacks one of {', '.join(NEEDED)}, which the naive rungs need.")
    return python


def installed() -> Path | None:
    """The naive environment's Python, made when it is missing; None, with the reason, when it cannot be made."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not python.exists():
            print(f"Installing torch and transformers into {ENVIRONMENT} (some GB, once) …", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        if not _able(python):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"!! The naive rungs are SKIPPED: {error}", file=sys.stderr, flush=True)
        return None
    return python
