"""Who measures energy: the counters of NVIDIA's GPUs (NVML).

Owns their units and their start-over. Knows no engine and no request. A counter that cannot be read measures nothing,
and that is told: None is never a nought.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

_UJ_PER_MJ = 1000


class PowerMeter(Protocol):
    """Microjoules that were used since the call before; None when they could not be read this time."""

    def used_uj(self) -> int | None: ...


class Nvml:
    """The GPUs' total-energy counters, in millijoules since the driver was loaded (nvmlDeviceGetTotalEnergyConsumption,
    NVML reference; Volta and later). They count the whole GPU, whoever uses it.
    """

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._last_mj = self._read()

    def used_uj(self) -> int | None:
        now, before = self._read(), self._last_mj
        self._last_mj = now
        if now is None or before is None or any(new < old for new, old in zip(now, before, strict=True)):
            return None
        return (sum(now) - sum(before)) * _UJ_PER_MJ

    def _read(self) -> list[int] | None:
        try:
            return [int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self._handles]
        except self._nvml.NVMLError:
            return None


def nvml_for(gpus: Sequence[str], nvml: Any = None) -> Nvml | None:
    """The counters of these GPUs (indexes or UUIDs), or None: no library (the extra `gpu`), driver or such GPU, or one
    too old to count. `nvml`: the module to ask, if not pynvml.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
        handles = [
            nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)
            for gpu in gpus
        ]
    except nvml.NVMLError:
        return None
    found = Nvml(nvml, handles)
    return found if handles and found.used_uj() is not None else None
