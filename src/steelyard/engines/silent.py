"""OpenVINO, imported so that nothing of it can call home.

Its Python package brings a telemetry client that is imported with it (used by tools we never call). Here that client is
withheld, so the package takes its own silent stand-in. Whoever wants OpenVINO in this program takes it from here.
"""

import importlib
import os
import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"


def genai() -> Any:
    """The module openvino_genai. Raises ImportError when it is not installed or fits another machine."""
    _withhold()
    return importlib.import_module("openvino_genai")


def tensor_of(ids: list[int]) -> Any:
    """Token ids as the pipeline takes them: one row of 64-bit integers."""
    _withhold()
    numpy = importlib.import_module("numpy")
    return importlib.import_module("openvino").Tensor(numpy.array([ids], dtype=numpy.int64))


def _withhold() -> None:
    os.environ.setdefault("OPENVINO_LOG_LEVEL", "0")  # what fails comes as an exception; its log repeats it on stderr
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # so an import of it fails
