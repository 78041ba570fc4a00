"""Who measures energy: the counters of NVIDIA's GPUs (NVML) and of CPU packages (RAPL, by Linux's powercap).

Owns their units and their start-over. Knows no engine and no request. A counter that cannot be read measures nothing,
and that is told: None is never a nought.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from steelyard.kernel.clock import NS_PER_S

_UJ_PER_MJ = 1000
_POWERCAP, _STAT = Path("/sys/class/powercap"), Path("/proc/stat")
_WORKING = (1, 2, 3, 6, 7, 8)
"""Of the columns of /proc/stat's first line: user, nice, system, irq, softirq, steal (proc_stat(5))."""


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


class Rapl:
    """The energy counters of the CPU packages, and the share in it of a process that used so much CPU time.

    A package does not know who used it: what it drew is shared by CPU time among all that ran, ours and others'.
    """

    def __init__(self, packages: Sequence[Path], stat: Path = _STAT) -> None:
        self._packages = packages
        self._stat = stat
        self._tick_ns = NS_PER_S // os.sysconf("SC_CLK_TCK")
        self._last_uj = self._read()
        self._last_ns = self._busy_ns()

    def share_uj(self, used_ns: int) -> int | None:
        """Microjoules since the call before that go to one who used `used_ns` of CPU time; None: they are not known."""
        now, before, self._last_uj = (fresh := self._read()), self._last_uj, fresh
        busy_ns = self._busy_ns() - self._last_ns
        self._last_ns += busy_ns
        if now is None or before is None:
            return None
        drawn = sum(self._since(*each) for each in zip(self._packages, before, now, strict=True))
        return drawn * used_ns // max(1, used_ns, busy_ns)

    def _since(self, package: Path, before: int, now: int) -> int:
        """The counter starts over at its range."""
        return now - before if now >= before else now - before + int((package / "max_energy_range_uj").read_text())

    def _read(self) -> list[int] | None:
        try:
            return [int((package / "energy_uj").read_text()) for package in self._packages]
        except (OSError, ValueError):
            return None

    def _busy_ns(self) -> int:
        columns = self._stat.read_text().split("\n", 1)[0].split()
        return sum(int(columns[column]) for column in _WORKING) * self._tick_ns


def rapl_here(powercap: Path = _POWERCAP, stat: Path = _STAT) -> Rapl | None:
    """The packages' counters, or None: there are none, as on most virtual machines, or only root may read them."""
    packages = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
    try:
        for package in packages:
            int((package / "energy_uj").read_text())
            int((package / "max_energy_range_uj").read_text())
        return Rapl(packages, stat) if packages else None
    except (OSError, ValueError):
        return None
