"""OpenVINO, imported so that nothing of it can call home.

Its Python package brings tools we never call, and with them a telemetry client. Here both are withheld: the package
does without. Whoever wants OpenVINO in this program takes it from here.
"""

import importlib
import os
import sys
from typing import Any

_TELEMETRY, _TOOLS = "openvino_telemetry", "openvino.tools.ovc"


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
    for name in (_TELEMETRY, _TOOLS):
        sys.modules[name] = None  # type: ignore[assignment]  # so an import of it fails
