"""Prometheus text of GPU engines, as a scraper reads it."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S, ManualClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKind, EngineLoad, EngineSeen, EngineSpec, EngineState
from steelyard.processes import engine_files
from steelyard.processes.engine_metrics import engine_text
from steelyard.processes.engine_watch import Watch


def test_what_a_keeper_saw_is_told_and_what_a_server_does_not_tell_is_not(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert engine_text(data, 1) == ""
    for name in ("a", "b"):
        engine_files.put_spec(data, EngineSpec(name, EngineKind.SGLANG, 'q"8'))
    seen = EngineSeen(EngineState.RUNNING, 1, load=EngineLoad(3, 1, 280, 80, 8, 80, 64), busy_ns=2_500_000_000)
    engine_files.put_seen(data, "a", seen)
    samples = {
        (sample.name.removeprefix("steelyard_engine_"), sample.labels["engine"]): sample.value
        for family in text_string_to_metric_families(engine_text(data, 1))
        for sample in family.samples
    }
    assert samples["requests_running", "a"] == 3
    assert samples["cache_hit_tokens_total", "a"] == 64
    assert samples["busy_seconds_total", "a"] == 2.5
    assert (samples["up", "a"], samples["up", "b"]) == (1, 0)
    assert ("drafted_tokens_total", "a") not in samples and ("requests_running", "b") not in samples
    (data.engines / "a.engine").write_text("{")
    assert engine_text(data, 1) == ""


def test_the_local_engine_tells_of_itself_now_and_then(tmp_path: Path) -> None:
    data, clock = DataDir(tmp_path), ManualClock()
    watch = Watch(tmp_path, "local", EngineKind.OPENVINO, "m", clock)
    watch.tick(EngineLoad(2, drafted_tokens=0, accepted_tokens=0))
    clock.advance(limits.ENGINE_SEEN_MS * NS_PER_MS - 1)
    watch.tick(EngineLoad(1, drafted_tokens=5, accepted_tokens=3))
    assert 'drafted_tokens_total{engine="local",kind="openvino",model="m"} 0' in engine_text(data, clock.now_ns())
    clock.advance(1)
    watch.tick(None)
    text = engine_text(data, clock.now_ns())
    assert 'drafted_tokens_total{engine="local",kind="openvino",model="m"} 5' in text
    assert 'accepted_tokens_total{engine="local",kind="openvino",model="m"} 3' in text
    assert 'busy_seconds_total{engine="local",kind="openvino",model="m"} 0.5' in text


def test_an_engine_that_has_fallen_silent_is_not_up(tmp_path: Path) -> None:
    """Its file says still that it runs: it was killed, or never came back from a start."""
    data, clock = DataDir(tmp_path), ManualClock()
    Watch(tmp_path, "local", EngineKind.OPENVINO, "m", clock).tick(EngineLoad())
    up = 'steelyard_engine_up{engine="local",kind="openvino",model="m"} '
    clock.advance(limits.ENGINE_SILENT_S * NS_PER_S)
    assert f"{up}1" in engine_text(data, clock.now_ns())
    clock.advance(1)
    assert f"{up}0" in engine_text(data, clock.now_ns())


def test_an_engine_in_which_nothing_runs_tells_it_once_and_then_seldom(tmp_path: Path) -> None:
    clock, told = ManualClock(), set[int]()
    watch = Watch(tmp_path, "local", EngineKind.OPENVINO, "m", clock)
    for load in [EngineLoad(1)] * 4 + [EngineLoad(0, decode_tokens=9)] * 40:
        watch.passed(busy=load.running > 0)
        watch.tell(load)
        seen = engine_files.seen(DataDir(tmp_path), "local")
        assert seen is not None
        told.add(seen.seen_ns)
        assert seen.load == load, "what has changed is told at the next look"
        clock.advance(limits.ENGINE_SEEN_MS * NS_PER_MS)
    assert len(told) == 4 + 40 * limits.ENGINE_SEEN_MS // (1000 * limits.ENGINE_SEEN_REST_S)
    assert seen.busy_ns == 3 * limits.ENGINE_SEEN_MS * NS_PER_MS
    assert limits.ENGINE_SEEN_REST_S * 2 < limits.ENGINE_SILENT_S
