"""What is written down of engines on one machine: who runs, since when, how often, and what is wanted of whom."""

from pathlib import Path

import pytest

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import (
    EngineKind,
    EngineLoad,
    EngineSeen,
    EngineSpec,
    EngineStart,
    EngineState,
    Wanted,
    state_at,
)
from steelyard.kernel.errors import CallerError, StartError
from steelyard.processes import engine_files
from steelyard.processes.line_watch import LineWatch


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    made.prepare()
    return made


def test_our_own_engines_stand_before_the_added_ones(data: DataDir) -> None:
    engine_files.put_spec(data, EngineSpec("a", EngineKind.VLLM, "q8"))
    for name, kind in (("local-embedding", EngineKind.XLLAMACPP), ("local", EngineKind.OPENVINO)):
        engine_files.put_seen(data, name, EngineSeen(EngineState.RUNNING, 1, kind=kind, model="m"))
    engine_files.note_start(data, "a", 5)
    known = engine_files.known(data)
    assert [one.spec.name for one in known] == ["local", "local-embedding", "a"]
    assert known[0].seen is not None and known[0].start is None
    assert known[2].seen is None and known[2].start == EngineStart(5, 5, 1)


def test_starts_are_counted_until_the_platform_begins_anew(data: DataDir) -> None:
    engine_files.put_seen(data, "local", EngineSeen(EngineState.RUNNING, 1, kind=EngineKind.OPENVINO, model="m"))
    engine_files.put_seen(data, "a", EngineSeen(EngineState.DRAINED, 1))
    for now_ns in (10, 20, 30):
        engine_files.note_start(data, "local", now_ns, why="two CPUs", speculate="off")
    assert engine_files.start(data, "local") == EngineStart(10, 30, 3, "two CPUs", "off")
    engine_files.drop_starts(data)
    assert engine_files.start(data, "local") is None and engine_files.ours(data) == []
    assert engine_files.seen(data, "a") == EngineSeen(EngineState.DRAINED, 1)  # it stays so


def test_who_waits_in_workers_is_told_with_the_engine_by_lanes(data: DataDir) -> None:
    clock = ManualClock()
    began_ns, later_ns = clock.now_ns(), clock.now_ns() + (limits.ENGINE_SILENT_S + 1) * NS_PER_S
    lines = {0: (4, 3), 1: (2, 0), 2: (9, 9)}
    for worker, waiting in lines.items():
        [(name, seen)] = LineWatch(data, worker, {"local": waiting}.get, clock).due()
        engine_files.put_line(data, name, worker, seen)
        clock.advance(later_ns - began_ns if worker == 1 else 0)
    engine_files.put_line(data, "local-embedding", 0, seen)
    told = EngineLoad(2, 1)
    for at_ns, waiting_then in ((began_ns, (1 + 4 + 2, 3)), (later_ns, (1 + 9, 9))):
        one = EngineSeen(EngineState.RUNNING, at_ns, kind=EngineKind.XLLAMACPP, model="m", load=told)
        engine_files.put_seen(data, "local", one)
        [known] = engine_files.known(data)
        assert known.seen is not None and known.seen.load is not None
        assert (known.seen.load.waiting, known.seen.load.waiting_batch) == waiting_then
    engine_files.drop_starts(data)
    engine_files.put_seen(data, "local", one)
    assert engine_files.seen(data, "local") == one, "lines of an earlier start are gone"


def test_a_line_is_told_when_it_changes_and_now_and_then(data: DataDir) -> None:
    clock, waiting = ManualClock(), dict[str, tuple[int, int]]()
    watch = LineWatch(data, 0, waiting.get, clock)
    assert watch.due() == []
    waiting["local"] = (0, 0)
    assert [name for name, _ in watch.due()] == ["local"]
    assert watch.due() == []
    waiting["local"] = (1, 1)
    assert [(one.waiting, one.waiting_batch) for _, one in watch.due()] == [(1, 1)]
    clock.advance(limits.ENGINE_SEEN_REST_S * NS_PER_S)
    assert len(watch.due()) == 1


def test_what_is_wanted_is_written_with_its_reason(data: DataDir) -> None:
    engine_files.put_spec(data, EngineSpec("a", EngineKind.VLLM, "q8", token="sealed"))
    assert engine_files.drain(data, "a", "driver update").reason == "driver update"
    drained = engine_files.spec(data, "a")
    assert (drained.wanted, drained.generation, drained.token) == (Wanted.DRAINED, 0, "sealed")
    engine_files.restart(data, "a", "")
    again = engine_files.spec(data, "a")
    assert (again.wanted, again.generation, again.reason) == (Wanted.RUN, 1, "restarted")
    for ask in (engine_files.drain, engine_files.restart):
        with pytest.raises(CallerError, match="There is no engine 'b'"):
            ask(data, "b", "")
        with pytest.raises(CallerError, match="'local' is the platform's own"):
            ask(data, "local", "")


def test_a_state_is_what_was_seen_what_is_wanted_and_how_long_ago() -> None:
    spec, silent_ns = EngineSpec("a", EngineKind.VLLM, "q8"), limits.ENGINE_SILENT_S * NS_PER_S
    drained = EngineSpec("a", EngineKind.VLLM, "q8", wanted=Wanted.DRAINED)
    running, failed = EngineSeen(EngineState.RUNNING, 1), EngineSeen(EngineState.FAILED, 1)
    assert state_at(spec, None, 0) is EngineState.STARTING
    assert state_at(spec, running, 1 + silent_ns) is EngineState.RUNNING
    assert state_at(spec, running, 2 + silent_ns) is EngineState.SILENT
    assert state_at(drained, running, 1) is EngineState.DRAINING
    assert state_at(spec, failed, 2 + silent_ns) is EngineState.FAILED


def test_of_an_engine_that_is_forgotten_nothing_is_left(data: DataDir) -> None:
    """Its key, in the file of arguments that SGLang reads, was."""
    engine_files.put_spec(data, EngineSpec("a", EngineKind.SGLANG, "q8"))
    engine_files.put_arguments(data, "a", "api-key: secret")
    assert engine_files.arguments_file(data, "a").stat().st_mode & 0o777 == 0o600
    engine_files.drop_spec(data, "a")
    assert list(data.engines.iterdir()) == []


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(data: DataDir) -> None:
    """On a full disk an engine and every worker try again twice a second."""
    (data.engines / "a.seen").mkdir()
    with pytest.raises(StartError, match="cannot be written"):
        engine_files.put_seen(data, "a", EngineSeen(EngineState.RUNNING, 1))
    assert [path.name for path in data.engines.iterdir()] == ["a.seen"]
