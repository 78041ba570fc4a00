"""The clock of a GPU engine: what it did between two looks, and whose that was."""

import errno
import io
import os
import sys
import threading
from pathlib import Path

import pytest
from tests.platform import wait_for

from steelyard.kernel.clock import NS_PER_S, ManualClock, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import Energy, EngineKind, EngineLoad, EngineSeen, EngineSpec, EngineState
from steelyard.metering.energy import EnergyClock, EnergyClocks, clock_path
from steelyard.processes.engine_command import Started
from steelyard.processes.keeper import Keeper, Server, Ticks

JOULES = 300


class Counter:
    """A GPU that draws so much between two looks."""

    def used_uj(self) -> int:
        return JOULES * 1_000_000


class Engine:
    def __init__(self, directory: Path, gpus: int = 1, ours: int = 0, kind: EngineKind = EngineKind.VLLM) -> None:
        self.time = ManualClock()
        spec = EngineSpec("gpu", kind, "m", gpus=tuple(map(str, range(gpus))))
        self.ticks = Ticks(EnergyClock(clock_path(directory, "gpu")), self.time, spec, Counter(), EngineLoad())
        self.gauge = EnergyClocks(directory).gauges["gpu"]
        self.gauge.run(ours)

    def look(self, running: int, waiting: int = 0) -> tuple[int, int]:
        """A second later: nanoseconds and microjoules that this second gives to each request."""
        before = self.gauge.per_sequence_ns(), self.gauge.measured()[0]
        self.time.advance(NS_PER_S)
        self.ticks.tick(EngineLoad(running=running, waiting=waiting))
        return self.gauge.per_sequence_ns() - before[0], self.gauge.measured()[0] - before[1]


@pytest.mark.parametrize(("running", "waiting", "ours"), [(1, 0, 0), (4, 0, 4), (4, 1, 5), (64, 192, 2), (1, 0, 256)])
def test_no_more_is_given_than_was_used(tmp_path: Path, running: int, waiting: int, ours: int) -> None:
    """However many wait there, are others', or are ours and not told of yet."""
    engine = Engine(tmp_path, ours=ours)
    ns, uj = engine.look(running, waiting)
    everybody = max(running + waiting, ours)
    assert ns * everybody == pytest.approx(NS_PER_S, abs=everybody)
    assert uj * everybody == pytest.approx(JOULES * 1_000_000, abs=everybody)


def test_of_sglang_only_what_our_workers_have_there_is_known(tmp_path: Path) -> None:
    """It tells of 64 for half a minute after the last of them, and of nobody until a lone answer's 40th step."""
    engine = Engine(tmp_path, kind=EngineKind.SGLANG)
    assert engine.look(64, 9) == (0, 0), "nobody is there any more"
    engine.gauge.run(1)
    assert engine.look(64, 9) == (NS_PER_S, JOULES * 1_000_000)
    assert engine.look(0) == (NS_PER_S, JOULES * 1_000_000)
    seen = engine.ticks.seen(EngineSeen(EngineState.RUNNING, 0))
    assert seen.load is not None and seen.load.running == 1


def test_a_servers_key_is_not_in_what_it_is_heard_to_say(capfd: pytest.CaptureFixture[str]) -> None:
    said = "echo \"server_args=ServerArgs(api_key='$1')\"; exit 3"
    server = Server(Started(["sh", "-c", said, "sh", "sy-secret"], {}, "", "sglang"), "sy-secret")
    assert wait_for(server.gone, "it to end").endswith("server_args=ServerArgs(api_key='…')")
    assert "sy-secret" not in capfd.readouterr().err
    server.end()


def test_a_server_gets_no_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the code of models, and the keeper has in its environment what opens the keys of vendors."""
    monkeypatch.setenv("STEELYARD_SECRET", "what opens them")
    monkeypatch.setenv("STEELYARD_UPSTREAM_KEY_OPENAI", "sk-vendor")
    said = 'echo "$(env | grep -c ^STEELYARD_) of ours, $VLLM_API_KEY, $HOME"; exit 3'
    server = Server(Started(["sh", "-c", said], {"VLLM_API_KEY": "its own"}, "", "vllm"), "")
    assert wait_for(server.gone, "it to end") == f"exit code 3: 0 of ours, its own, {os.environ['HOME']}"
    server.end()


def test_a_server_is_listened_to_when_there_is_no_room_for_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for a reader as soon as the pipe is full."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    server = Server(Started(["sh", "-c", "yes much is said | head -c 1000000; exit 3"], {}, "", "vllm"), "")
    assert wait_for(server.gone, "it to end", 5).startswith("exit code 3")
    server.end()


def test_a_full_disk_ends_no_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What was seen of it cannot be written down; its answers go on."""
    data, stop = DataDir(tmp_path / "data"), threading.Event()
    data.prepare()
    data.engines.rmdir()
    data.engines.write_text("no room for a file in here")
    program = (sys.executable, "-m", "tests.fakes.gpu_server", "vllm")
    spec = EngineSpec("e", EngineKind.VLLM, "q8", "Qwen/Qwen3-8B", command=program)
    keeper = threading.Thread(target=Keeper(data, spec, SystemClock(), stop).run)
    keeper.start()
    said: list[str] = []

    def ready() -> bool:
        said.append(capfd.readouterr().out)
        assert keeper.is_alive()
        return "ready" in "".join(said)

    wait_for(ready, "the server to be offered")
    stop.set()
    keeper.join()


def test_each_gpu_is_counted(tmp_path: Path) -> None:
    assert Engine(tmp_path, gpus=2).look(1) == (2 * NS_PER_S, JOULES * 1_000_000)


def test_what_it_draws_while_nothing_runs_is_nobodys(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    assert engine.look(0) == (0, 0)
    assert engine.look(1) == (NS_PER_S, JOULES * 1_000_000)
    seen = engine.ticks.seen(EngineSeen(EngineState.RUNNING, 0))
    assert (seen.busy_ns, seen.up_ns, seen.busy_uj, seen.idle_uj, seen.energy) == (
        *(NS_PER_S, 2 * NS_PER_S),
        *(JOULES * 1_000_000, JOULES * 1_000_000),
        Energy.NVML,
    )


def test_an_engine_that_does_not_tell_is_given_nothing(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.time.advance(NS_PER_S)
    engine.ticks.tick(None)
    assert engine.gauge.per_sequence_ns() == 0
