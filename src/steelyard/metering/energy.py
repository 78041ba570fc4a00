"""What a request cost the engine: its busy time, and energy: measured where something measures it, modelled otherwise.

Owns the clock file: four u64 words, the engine's time (of its CPU cores, or of its GPUs) in all and per running
sequence, measured energy per running sequence, and in which stretch of measuring that is (odd: it is measured, even: it
is not); then two words of each worker, its process and how many sequences it has with the engine. The engine or its
keeper ticks it, workers read it when a request opens and closes. It never goes back: a restarted engine counts on in
the same file.
"""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from steelyard.kernel import limits
from steelyard.kernel.money import divide_half_even
from steelyard.kernel.process import lives
from steelyard.metering.disk import Disk
from steelyard.metering.power import Rapl

_TOTAL, _PER_SEQUENCE, _UJ_PER_SEQUENCE, _STRETCH, _WORKERS = range(5)
_END = _WORKERS + 2 * limits.WORKERS_MAX
_BYTES = 8 * _END
_SYSTEM_DISK = Disk()


def clock_path(directory: Path, upstream: str) -> Path:
    """Where an upstream's clock lives under the energy directory."""
    return directory / f"{quote(upstream, safe='')}.clock"


def energy_uj(cpu_ns: int, watts_milli: int) -> int:
    """Microjoules that `cpu_ns` of busy core take at this power: ns × mW is 1e-12 J."""
    return divide_half_even(cpu_ns * watts_milli, 1_000_000)


class EnergyClock:
    """The side of whoever knows how busy an engine is. One writer per file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _SYSTEM_DISK.allocate(fd, _BYTES)
            self._map = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._measured(False)  # a writer before this one may have been killed while it measured

    def add(self, used_ns: int, active: int, measured_uj: int | None = None) -> None:
        """So much more time and energy, shared among the `active` running sequences. None: nobody measures it."""
        self._words[_TOTAL] += used_ns
        self._words[_PER_SEQUENCE] += used_ns // max(1, active)
        self._words[_UJ_PER_SEQUENCE] += (measured_uj or 0) // max(1, active)
        self._measured(measured_uj is not None)

    def skip(self, used_ns: int) -> None:
        """So much more time, of no sequence."""
        self._words[_TOTAL] += used_ns

    def running(self) -> int:
        """How many sequences the workers that live have with the engine."""
        words = self._words
        return sum(words[at + 1] for at in range(_WORKERS, _END, 2) if words[at + 1] and lives(words[at]))

    def _measured(self, measured: bool) -> None:
        if measured != bool(self._words[_STRETCH] & 1):
            self._words[_STRETCH] += 1

    def close(self) -> None:
        self._words.release()
        self._map.close()


class CpuClock:
    """An engine's own side. `cpu_ns` tells the CPU time its process has used so far, `power` what that drew."""

    def __init__(self, path: Path, cpu_ns: Callable[[], int] = time.process_time_ns, power: Rapl | None = None) -> None:
        self._power = power
        self._clock = EnergyClock(path)
        self._cpu_ns = cpu_ns
        self._last_ns = cpu_ns()

    def tick(self, active: int) -> None:
        """Add the CPU time since the last tick, shared among the `active` running sequences."""
        self.share(self.read(), active)

    def rested(self) -> None:
        """Nothing ran since the last tick: what was used is nobody's."""
        used_ns = self.read()
        self._clock.skip(used_ns)
        if self._power is not None:
            self._power.share_uj(used_ns)

    def share(self, used_ns: int, active: int) -> None:
        """The same as `tick` for what was read."""
        self._clock.add(used_ns, active, None if self._power is None else self._power.share_uj(used_ns))

    def running(self) -> int:
        """How many sequences the workers that live have with the engine."""
        return self._clock.running()

    def read(self) -> int:
        """CPU time since the last reading, to be shared or given to nobody. With 500 threads it takes 70 µs."""
        now_ns, before_ns = self._cpu_ns(), self._last_ns
        self._last_ns = now_ns
        return max(0, now_ns - before_ns)

    def close(self) -> None:
        self._clock.close()


class EnergyGauge:
    """One upstream's clock as a request sees it. Without a clock (a vendor's upstream) it stands at 0 for good."""

    def __init__(self, words: memoryview | None, worker: int = 0) -> None:
        self._words = words
        self._at = _WORKERS + 2 * worker + 1
        self._running = 0
        self.stands_still = words is None
        if words is not None:
            words[self._at], words[self._at - 1] = 0, os.getpid()

    def run(self, sequences: int) -> None:
        """So many more of this worker's sequences are with the engine; fewer, where it is negative."""
        if self._words is not None:
            self._running += sequences
            self._words[self._at] = self._running

    def per_sequence_ns(self) -> int:
        return 0 if self._words is None else self._words[_PER_SEQUENCE]

    def measured(self) -> tuple[int, int]:
        """Microjoules per running sequence so far, and the stretch of measuring; see `is_measured`."""
        return (0, 0) if self._words is None else (self._words[_UJ_PER_SEQUENCE], self._words[_STRETCH])


def is_measured(before: int, after: int) -> bool:
    """Whether energy was measured all the time between two looks that found these stretches."""
    return before == after and bool(after & 1)


class _Gauges(dict[str, EnergyGauge]):
    def __init__(self, find: Callable[[str], EnergyGauge]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, upstream: str) -> EnergyGauge:
        return self._find(upstream)


class EnergyClocks:
    """The side of a worker, by its number: the clocks of all upstreams, mapped once each."""

    def __init__(self, directory: Path, worker: int = 0) -> None:
        self._directory = directory
        self._worker = worker
        self.gauges: dict[str, EnergyGauge] = _Gauges(self._mapped)
        """By upstream, found when one is first asked for: the clock to read at open and at close. One that appears in
        between is not used: its past is not ours."""
        self._clockless: set[str] = set()
        self._maps: list[tuple[memoryview, mmap.mmap]] = []

    def look_again(self) -> None:
        """Look for clocks that were not there: a file is asked for once, not with every request (20 µs)."""
        for upstream in self._clockless:
            del self.gauges[upstream]
        self._clockless.clear()

    def per_sequence_ns(self, upstream: str) -> int:
        """CPU time per running sequence so far; 0 when the upstream has no clock."""
        return self.gauges[upstream].per_sequence_ns()

    def close(self) -> None:
        self.gauges.clear()
        self._clockless.clear()
        for words, mapped in self._maps:
            words.release()
            mapped.close()
        self._maps.clear()

    def _mapped(self, upstream: str) -> EnergyGauge:
        try:
            fd = os.open(clock_path(self._directory, upstream), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return self._without(upstream)
        try:
            if os.fstat(fd).st_size < _BYTES:
                return self._without(upstream)
            mapped = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        words = memoryview(mapped).cast("Q")
        self._maps.append((words, mapped))
        gauge = self.gauges[upstream] = EnergyGauge(words, self._worker)
        return gauge

    def _without(self, upstream: str) -> EnergyGauge:
        self._clockless.add(upstream)
        gauge = self.gauges[upstream] = EnergyGauge(None)
        return gauge
