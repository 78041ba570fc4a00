"""What the worker process does about itself."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from tests.fakes.metering import FaultyDisk, opened

from steelyard.kernel import limits
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import BooksError
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.processes.worker import _stop_when_failed


async def test_a_worker_whose_journal_failed_makes_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would refuse every request for ever, with a good disk under it."""
    monkeypatch.setattr(limits, "HEALTH_INTERVAL_S", 0.001)
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    slots = Slots.create(tmp_path / "w0-1" / "slots", 2)
    meter = Meter(journal, slots, ManualClock(), EnergyClocks(tmp_path))
    server = SimpleNamespace(should_exit=False)
    watch = asyncio.ensure_future(_stop_when_failed(meter, server))  # type: ignore[arg-type]
    done, _ = await asyncio.wait([watch], timeout=0.02)
    assert not done and not server.should_exit
    disk.bytes_left = 10
    with pytest.raises(BooksError):
        journal.append(opened(1))
    await asyncio.wait_for(watch, 10)
    assert server.should_exit
    meter.close()


def test_a_held_worker_touches_nothing_until_the_word(tmp_path: Path) -> None:
    """The books it is to serve from may not be opened yet, nor say what is for sale now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with held_worker(tmp_path, port) as worker:
            with pytest.raises(subprocess.TimeoutExpired):  # the port is taken, which it would say at once
                worker.wait(3)
            _, said = worker.communicate("\n", timeout=60)
    assert said == f"Port {port} on 127.0.0.1 is taken by another program.\n" and worker.returncode == 2


def test_a_held_worker_whose_parent_has_gone_goes_too(tmp_path: Path) -> None:
    with held_worker(tmp_path, 1) as worker:
        assert worker.communicate(timeout=60) == ("", "") and worker.returncode == 0


def held_worker(data: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "steelyard.processes.worker", "--held", "--data", str(data), "--port", str(port)]
    return subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
