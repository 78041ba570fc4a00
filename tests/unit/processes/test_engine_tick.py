"""How often llama.cpp's process looks at the CPU time it has used."""

import argparse
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from steelyard.metering.energy import CpuClock, EnergyClocks, clock_path
from steelyard.processes import engine

TICKS = 50


@pytest.mark.parametrize(("at_work", "reads"), [(0, TICKS // engine._TICKS_APART), (1, TICKS)])
def test_the_clock_is_read_seldom_until_a_worker_has_something_here(
    at_work: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, seen = SimpleNamespace(told=threading.Event()), [0, 0]
    CpuClock(clock_path(tmp_path / "energy", "local")).close()
    workers = EnergyClocks(tmp_path / "energy")
    workers.gauges["local"].run(at_work)

    def sleep(_: float) -> None:
        seen[0] += 1
        if seen[0] == TICKS:
            stop.told.set()

    def read(_: CpuClock) -> int:
        seen[1] += 1
        return 0

    monkeypatch.setattr(engine.time, "sleep", sleep)
    monkeypatch.setattr(CpuClock, "read", read)
    options = argparse.Namespace(data=tmp_path, upstream="local")
    engine._tick(SimpleNamespace(), options, "m", stop)  # type: ignore[arg-type]
    workers.close()
    assert seen == [TICKS, reads]
