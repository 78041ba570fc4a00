"""GPU engines as `steelyard up` runs them: real supervisor and keeper, a fake server, a catalog that takes notes."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from steelyard.cli.engine_room import EngineRoom
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKind, EngineSeen, EngineSpec, EngineState, Wanted
from steelyard.kernel.errors import BooksError
from steelyard.metering.energy import EnergyClocks
from steelyard.processes import engine_files
from steelyard.processes.supervisor import Supervisor

FAKE = (sys.executable, "-m", "tests.fakes.gpu_server")


class Stage:
    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.data.prepare()
        self.told: list[str] = []
        self.offers: dict[str, dict[str, Any]] = {}
        self.commands: list[str] = []
        self.refused: set[str] = set()  # commands that the books miss once
        self.supervisor: Supervisor
        self.task: asyncio.Task[None] | None = None

    def command(self, op: str, payload: dict[str, Any]) -> None:
        if op in self.refused:
            self.refused.remove(op)
            raise BooksError("The books do not answer (connection refused).")
        self.commands.append(op)
        if op == "model.register":
            self.offers[payload["upstream"]] = payload
        else:
            self.offers.pop(payload["upstream"], None)

    def open(self) -> None:
        """Another start of the platform: a supervisor that was stopped starts nothing any more."""
        self.supervisor = Supervisor(self.data.logs, SystemClock(), self.told.append, delays_ms=(10,))
        room = EngineRoom(self.data, SystemClock(), self.supervisor, self.command, self.told.append)
        self.task = asyncio.ensure_future(room.run())

    async def close(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.supervisor.force("")

    def put(self, spec: EngineSpec, **changes: Any) -> EngineSpec:
        changed = msgspec.structs.replace(spec, **changes)
        engine_files.put_spec(self.data, changed)
        return changed

    def seen(self, name: str = "e") -> EngineSeen | None:
        return engine_files.seen(self.data, name)

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        async with asyncio.timeout(20):
            while not (value := condition()):
                assert self.task is not None and not self.task.done(), self.task
                await asyncio.sleep(0.01)
        return value

    async def until_state(self, state: EngineState, name: str = "e") -> EngineSeen:
        def there() -> EngineSeen | None:
            seen = self.seen(name)
            return seen if seen is not None and seen.state is state else None

        found: EngineSeen = await self.until(there, f"{name} to be {state}")
        return found

    def servers(self) -> list[psutil.Process]:
        return [one for one in psutil.Process().children(recursive=True) if "tests.fakes.gpu_server" in one.cmdline()]


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(limits, "ENGINE_LOOK_S", 0.05)
    made = Stage(tmp_path / "data")
    yield made
    await made.close()


def vllm(*extra: str) -> EngineSpec:
    return EngineSpec(
        "e", EngineKind.VLLM, "q8", "Qwen/Qwen3-8B", gpus=("3",), command=(*FAKE, "vllm"), extra=extra, start_s=20
    )


async def test_an_engine_is_started_offered_restarted_and_started_again_by_the_next_up(stage: Stage) -> None:
    spec = stage.put(vllm("--seed", "7"))
    stage.open()
    stage.refused = {"model.register"}  # what took long to load is not loaded again for that
    seen = await stage.until_state(EngineState.RUNNING)
    offer = await stage.until(lambda: stage.offers.get("e"), "an offer")
    assert (start := engine_files.start(stage.data, "e")) is not None and start.starts == 1
    assert (offer["name"], offer["address"], offer["context_tokens"]) == ("q8", seen.address, 2048)
    log = (stage.data.logs / "keeper-e.log").read_text()
    assert "CUDA_VISIBLE_DEVICES 3 passed on" in log and "--seed 7" in log

    (server,) = stage.servers()
    server.kill()
    await stage.until(lambda: any("vllm ended (killed by SIGKILL" in line for line in stage.told), "the reason")
    await stage.until(lambda: stage.offers.get("e", offer)["address"] != offer["address"], "an offer elsewhere")

    before = stage.offers["e"]["address"]
    spec = stage.put(spec, generation=1, reason="a new driver")
    await stage.until(lambda: stage.offers.get("e", {}).get("address", before) != before, "a new start")
    assert "Engine e: draining (a new driver)." in stage.told

    (server,) = stage.servers()
    await stage.close()  # kills the keeper: its server must notice by itself
    await asyncio.to_thread(server.wait, 20)
    stage.open()
    await stage.until(lambda: not stage.offers, "what an earlier start offered to be withdrawn")
    await stage.until(lambda: stage.offers.get("e"), "the engine of an earlier start")

    await stage.until_state(EngineState.RUNNING)
    stage.put(spec, wanted=Wanted.REMOVED)
    await stage.until(lambda: engine_files.specs(stage.data) == {}, "the engine to be forgotten")
    assert stage.commands[-1] == "vendor.remove" and stage.seen() is None and stage.servers() == []


async def test_a_server_that_does_not_start_is_quoted_and_tried_again(stage: Stage) -> None:
    stage.put(vllm("--fail"))
    stage.open()
    seen = await stage.until_state(EngineState.FAILED)
    assert seen.reason == "vllm ended (exit code 1: ValueError: No available memory for the cache blocks.)"
    assert stage.offers == {}


async def test_books_that_are_just_restarting_are_waited_for(stage: Stage) -> None:
    """Who looks after engines would be gone without a word, and one that is to be drained would go on for ever."""
    adopted = EngineSpec("e", EngineKind.VLLM, "q8", address="http://127.0.0.1:9")
    stage.put(adopted, name="gone", wanted=Wanted.REMOVED)
    stage.put(adopted)
    stage.refused = {"model.withdraw", "vendor.remove"}
    stage.open()
    await stage.until(lambda: "gone" not in engine_files.specs(stage.data), "the engine to be forgotten")
    await stage.until_state(EngineState.STARTING)
    stage.refused = {"model.withdraw"}
    stage.put(adopted, wanted=Wanted.DRAINED)
    await stage.until_state(EngineState.DRAINED)
    assert stage.told.count("Engine e: The books do not answer (connection refused).") == 2


async def test_an_adopted_server_is_drained_by_its_running_answers_and_outlives_us(stage: Stage) -> None:
    server = subprocess.Popen([*FAKE, "sglang"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(line for line in server.stdout if line.startswith("listening")).split()[-1]
        at = f"127.0.0.1:{address}"
        spec = stage.put(EngineSpec("e", EngineKind.SGLANG, "q8", address=f"http://{at}"))
        clocks = EnergyClocks(stage.data.energy)
        stage.open()
        await stage.until(lambda: stage.offers.get("e"), "an offer")
        assert stage.offers["e"]["upstream_model"] == "their-model"

        said: list[str] = []
        held = threading.Thread(target=lambda: said.append(_chat(at, "hold")))
        held.start()
        await stage.until(lambda: (seen := stage.seen()) and seen.busy_ns, "busy time")
        assert clocks.per_sequence_ns("e") > 0
        stage.put(spec, wanted=Wanted.DRAINED, reason="the night")
        await stage.until(lambda: not stage.offers, "the offer to be withdrawn")
        await asyncio.sleep(3 * limits.ENGINE_TICK_MS / 1000)
        assert stage.seen().state is EngineState.RUNNING and not said  # type: ignore[union-attr]
        await asyncio.to_thread(_chat, at, "free")
        await asyncio.to_thread(held.join)
        assert (await stage.until_state(EngineState.DRAINED)).reason == "the night"
        assert "Hello" in said[0] and server.poll() is None
        clocks.close()
    finally:
        server.kill()
        server.communicate()


def _chat(at: str, text: str) -> str:
    import json
    import urllib.request

    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    with urllib.request.urlopen(f"http://{at}/v1/chat/completions", body, timeout=20) as answer:
        return str(answer.read().decode())


async def test_what_an_adopted_server_lacks_is_said(stage: Stage) -> None:
    server = subprocess.Popen([*FAKE, "vllm"], stdout=subprocess.PIPE, text=True, env={"VLLM_API_KEY": "theirs"})
    try:
        assert server.stdout is not None
        port = next(line for line in server.stdout if line.startswith("listening")).split()[-1]
        stage.put(EngineSpec("e", EngineKind.VLLM, "q8", address=f"http://127.0.0.1:{port}"))
        stage.open()
        seen = await stage.until_state(EngineState.FAILED)
        assert "does not take the key" in seen.reason
    finally:
        server.kill()
        server.communicate()
