"""The supervisor with real child processes: small Python programs that live, die, hang or refuse."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import psutil
import pytest

from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.errors import StartError
from steelyard.processes.child import Child, Service, open_log, reason_from_code
from steelyard.processes.supervisor import Supervisor

LIVE = "import sys; print('ready', '{}', flush=True); sys.stdin.read()"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def service(name: str, program: str, **fields: object) -> Service:
    return Service(name, lambda: [sys.executable, "-c", program], **fields)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], what: str, deadline_s: float = 10) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


class Stage:
    def __init__(self, logs: Path) -> None:
        self.told: list[str] = []
        self.supervisor = Supervisor(logs, SystemClock(), self.told.append)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    await stage.supervisor.force("books")


async def test_start_waits_for_ready_and_hands_the_greeting_on(stage: Stage) -> None:
    heard: list[str] = []

    async def ready(greeting: str) -> None:
        heard.append(greeting)

    await stage.supervisor.start(service("engine", LIVE, ready=ready))
    assert heard == ["{}"]
    assert psutil.pid_exists(stage.supervisor.pids["engine"])


async def test_a_held_child_loads_at_once_and_its_time_begins_with_the_word(stage: Stage, tmp_path: Path) -> None:
    """Workers load beside books that may replay for minutes."""
    loaded, may_begin = tmp_path / "loaded", asyncio.Event()
    program = f"import os, sys; open({str(loaded)!r}, 'w'); os.read(0, 1); {LIVE}"
    starting = asyncio.ensure_future(
        stage.supervisor.start(service("worker-0", program, start_s=1, held=may_begin.wait))
    )
    await until(loaded.exists, "it is loaded")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(starting), 1.2)
    may_begin.set()
    await starting
    assert psutil.pid_exists(stage.supervisor.pids["worker-0"])


async def test_a_held_child_that_fails_is_told_of_before_its_word(stage: Stage) -> None:
    held = service("worker-0", "import sys; sys.exit('no room for its files')", held=asyncio.Event().wait)
    with pytest.raises(StartError, match="no room for its files"):
        await asyncio.wait_for(stage.supervisor.start(held), 10)


async def test_a_held_child_is_gone_with_whoever_waited_for_it(stage: Stage, tmp_path: Path) -> None:
    program = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); os.read(0, 1)"
    held = service("worker-0", program, held=asyncio.Event().wait)
    starting = asyncio.ensure_future(stage.supervisor.start(held))
    await until(lambda: bool((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()), "it runs")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


async def test_a_child_that_refuses_to_start_is_quoted(stage: Stage) -> None:
    with pytest.raises(StartError, match="the disk is full"):
        await stage.supervisor.start(service("books", "import sys; sys.exit('the disk is full')"))
    assert stage.supervisor.pids == {}


async def test_a_child_that_dies_without_a_word_is_named_with_its_code(stage: Stage) -> None:
    with pytest.raises(StartError, match="books did not start: exit code 3"):
        await stage.supervisor.start(service("books", "import sys; sys.exit(3)"))


async def test_a_child_that_never_gets_ready_is_given_up_and_gone(stage: Stage, tmp_path: Path) -> None:
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(StartError, match="not ready within"):
        await stage.supervisor.start(service("engine", program, start_s=0.5))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


async def test_a_killed_child_is_started_again_with_the_reason(stage: Stage) -> None:
    await stage.supervisor.start(service("worker-0", LIVE))
    first = stage.supervisor.pids["worker-0"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: stage.supervisor.pids.get("worker-0", first) != first, "no second child")
    assert "worker-0 ended (killed by SIGKILL); starting it again in 0.1 s." in stage.told


async def test_a_child_that_fails_by_itself_is_quoted_in_the_reason(stage: Stage) -> None:
    program = "import sys; print('ready', flush=True); sys.stderr.write('journal lost\\n'); sys.exit(4)"
    await stage.supervisor.start(service("worker-0", program))
    await until(lambda: bool(stage.told), "nothing told")
    assert "ended (exit code 4): journal lost" in stage.told[0]


async def test_a_child_that_is_killed_on_purpose_is_started_again(stage: Stage) -> None:
    await stage.supervisor.start(service("engine", "print('ready', flush=True); import time; time.sleep(60)"))
    before = stage.supervisor.pids["engine"]
    assert stage.supervisor.kill("engine")
    await until(lambda: stage.supervisor.pids.get("engine", before) != before, "no restart")
    assert any("killed by SIGKILL" in line for line in stage.told)
    assert not stage.supervisor.kill("nobody")


async def test_delays_grow_while_a_child_does_not_hold(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAYS_MS", (10, 20, 30))
    await stage.supervisor.start(service("engine", "print('ready', flush=True)"))

    def delays() -> list[str]:
        return [line.rpartition(" in ")[2] for line in stage.told if "starting it again" in line]

    await until(lambda: len(delays()) >= 4, "too few restarts")
    assert delays()[:4] == ["0.01 s.", "0.02 s.", "0.03 s.", "0.03 s."]


async def test_a_silent_child_is_killed_and_restarted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEALTH_INTERVAL_S", 0.01)
    checks = 0

    async def check(pids: Mapping[str, int]) -> frozenset[str]:
        nonlocal checks
        checks += 1
        return frozenset({"worker-1"} if checks <= limits.HEALTH_FAILURES_MAX else ())

    await stage.supervisor.start(service("worker-0", LIVE))
    await stage.supervisor.start(service("worker-1", LIVE))
    before = stage.supervisor.pids
    stage.supervisor.check("worker-", check)
    await until(lambda: stage.supervisor.pids.get("worker-1", before["worker-1"]) != before["worker-1"], "still hung")
    assert stage.supervisor.pids["worker-0"] == before["worker-0"]
    assert "did not answer 3 health checks" in stage.told[0]


async def test_two_failures_in_a_row_are_forgiven(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEALTH_INTERVAL_S", 0.005)
    checks = 0

    async def check(pids: Mapping[str, int]) -> frozenset[str]:
        nonlocal checks
        checks += 1
        return frozenset() if checks % limits.HEALTH_FAILURES_MAX == 0 else frozenset(pids)

    await stage.supervisor.start(service("worker-0", LIVE))
    stage.supervisor.check("worker-", check)
    await until(lambda: checks > 4 * limits.HEALTH_FAILURES_MAX, "no checks")
    assert stage.told == []


async def test_stop_goes_group_after_group_and_kills_the_deaf(stage: Stage, tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    farewell = (
        "import signal, sys\n"
        f"def end(*_): open({str(mark)!r}, 'a').write(sys.argv[1] + ' '); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); signal.pause()"
    )
    for name in ("books", "engine", "worker-0"):
        await stage.supervisor.start(
            Service(name, lambda name=name: [sys.executable, "-c", farewell, name])  # type: ignore[misc]
        )
    await stage.supervisor.start(service("worker-1", DEAF))
    pids = list(stage.supervisor.pids.values())
    await stage.supervisor.stop([("worker-", 0.5), ("engine", 5), ("books", 5)])
    assert mark.read_text().split() == ["worker-0", "engine", "books"]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert stage.told == ["worker-1 did not stop within 0.5 s and was killed."]


async def test_force_does_not_wait_for_the_deaf(stage: Stage) -> None:
    await stage.supervisor.start(service("worker-0", DEAF))
    pid = stage.supervisor.pids["worker-0"]
    async with asyncio.timeout(2):
        await stage.supervisor.force("books")
    assert not psutil.pid_exists(pid)


async def test_the_end_of_the_pipe_tells_a_child_that_its_parent_is_gone(tmp_path: Path) -> None:
    """A supervisor killed with SIGKILL leaves nobody behind."""
    parent = (
        "import asyncio, sys, pathlib\n"
        "from steelyard.processes.child import Child, Service\n"
        "async def main():\n"
        f"    service = Service('books', lambda: [sys.executable, '-c', {LIVE!r}])\n"
        f"    child = await Child.start(service, pathlib.Path({str(tmp_path)!r}))\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    child = psutil.Process(int(await process.stdout.readline()))
    assert child.is_running()
    process.kill()
    await process.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child stayed")


async def test_secrets_travel_in_the_environment(stage: Stage, tmp_path: Path) -> None:
    program = "import os, sys; sys.stderr.write(os.environ['STEELYARD_ENGINE_KEY']); " + LIVE
    await stage.supervisor.start(service("engine", program, environment={"STEELYARD_ENGINE_KEY": "quiet"}))
    assert (tmp_path / "engine.log").read_text() == "quiet"
    assert "quiet" not in " ".join(psutil.Process(stage.supervisor.pids["engine"]).cmdline()).replace(program, "")


async def test_last_words_are_of_this_start_only(tmp_path: Path) -> None:
    (tmp_path / "books.log").write_text("an older complaint\n")
    child = await Child.start(service("books", LIVE), tmp_path)
    assert child.last_words() == ""
    assert await child.stop(5)


def test_a_large_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 10)
    path = tmp_path / "engine.log"
    path.write_text("x" * 11)
    open_log(path).close()
    assert path.read_text() == ""
    assert (tmp_path / "engine.log.1").read_text() == "x" * 11


async def test_the_log_of_one_that_runs_is_kept_small(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its customers make it say must not fill the disk before its next start."""
    monkeypatch.setattr(limits, "LOG_BYTES_MAX", 10)
    monkeypatch.setattr(limits, "LOG_LOOK_S", 0.01)
    program = (
        "import os, sys, time; sys.stderr.write('much was said'); print('ready', flush=True)\n"
        f"while not os.path.exists({str(tmp_path / 'end')!r}): time.sleep(0.01)\n"
        "sys.exit('the end')"
    )
    await stage.supervisor.start(service("worker-0", program))
    log = tmp_path / "worker-0.log"
    await until(lambda: log.stat().st_size == 0, "it is set aside")
    assert (tmp_path / "worker-0.log.1").read_text() == "much was said"
    (tmp_path / "end").touch()
    await until(lambda: bool(stage.told), "nothing told")
    assert stage.told[0].endswith("the end; starting it again in 0.1 s.")


@pytest.mark.parametrize(
    ("code", "words"), [(None, "still running"), (0, "exit code 0"), (2, "exit code 2"), (-9, "killed by SIGKILL")]
)
def test_reasons_are_words(code: int | None, words: str) -> None:
    assert reason_from_code(code) == words
