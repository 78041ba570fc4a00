"""The real engine in its own process, asked through the adapter: counts, refusals, cancellation, its end."""

import asyncio
import json
import os
import re
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import Turn
from steelyard.upstream.http1 import header_block
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool, Request
from steelyard.upstream.weights import fetch

KEY = "the-engine-key"
CONTEXT = 1024


def start(model: Path, data: Path, key: str = KEY, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "steelyard.processes.engine", "--model", str(model), "--data", str(data)]
    return subprocess.Popen(
        [*command, "--threads", "1", "--slots", "2", "--context", str(CONTEXT), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STEELYARD_ENGINE_KEY": key},
    )


@dataclass(frozen=True)
class Engine:
    greeting: dict[str, Any]
    data: Path
    process: "subprocess.Popen[str]"

    @property
    def offer(self) -> Offer:
        told = self.greeting
        return Offer(1, "m", "local", told["address"], told["model"], told["context_tokens"], told["context_tokens"])


@pytest.fixture(scope="module")
def weights() -> Path:
    return fetch()


def greeted(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    word, _, greeting = process.stdout.readline().partition(" ")
    assert word == "ready", process.communicate()
    told: dict[str, Any] = json.loads(greeting)
    return told


@pytest.fixture(scope="module")
def engine(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    data = tmp_path_factory.mktemp("engine")
    with start(weights, data) as process:
        yield Engine(greeted(process), data, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "", "the engine keeps quiet"


@pytest.fixture
async def upstream(engine: Engine) -> AsyncIterator[LlamaCpp]:
    pool = Pool()
    yield LlamaCpp("local", pool, KEY)
    await pool.close()


def params(text: str, **fields: Any) -> dict[str, Raw]:
    whole = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
    return {name: Raw(msgspec.json.encode(value)) for name, value in whole.items()}


async def answer(upstream: LlamaCpp, offer: Offer, asked: dict[str, Raw], max_tokens: int) -> tuple[str, Event]:
    """The text and the last event; counts are checked to rise on the way."""
    text, last = "", Event()
    async for event in upstream.stream(offer, asked, max_tokens, b""):
        assert event.usage.output >= last.usage.output
        assert event.usage.prompt >= last.usage.prompt
        text, last = text + event.text, event
    return text, last


async def busy(engine: Engine, pool: Pool) -> int:
    host, _, port = engine.greeting["address"].partition(":")
    request = Request("local", host, int(port), "GET", "/slots", header_block({"authorization": f"Bearer {KEY}"}))
    async with await pool.request(request) as response:
        return sum(slot["is_processing"] for slot in msgspec.json.decode(await response.body(1 << 20)))


def test_what_it_says_of_itself(engine: Engine) -> None:
    told = dict(engine.greeting)
    assert re.fullmatch(r"127\.0\.0\.1:\d+", told.pop("address"))
    assert told == {"model": "smollm2-135m-instruct", "context_tokens": CONTEXT, "slots": 2}


async def test_paris_its_counts_and_the_prefix_cache(engine: Engine, upstream: LlamaCpp) -> None:
    asked = params("What is the capital of France?")
    text, last = await answer(upstream, engine.offer, asked, 20)
    assert text == "The capital of France is Paris."
    assert (last.finish, last.usage.prompt, last.usage.output) == ("stop", 16, 8), "seven tokens and the end-of-text"
    _, again = await answer(upstream, engine.offer, asked, 20)
    assert again.usage == Usage(input=1, cached_input=15, output=8), "the last prompt token is always computed"


async def test_it_tells_its_slots_and_answers_in_the_one_that_is_named(engine: Engine, upstream: LlamaCpp) -> None:
    assert await upstream.slots(engine.offer) == 2
    asked = params("Tell me of the sea. " * 20)
    cached = []
    for slot in (0, 1, 0):
        async for event in upstream.stream(engine.offer, asked, 2, b"", Turn(1, 0, slot)):
            last = event
        cached.append(last.usage.cached_input > 60)
    assert cached[-1], "what ran there before is still there"


async def test_length_stop_seed_and_schema(engine: Engine, upstream: LlamaCpp) -> None:
    _, last = await answer(upstream, engine.offer, params("What is the capital of France?"), 3)
    assert (last.finish, last.usage.output) == ("length", 3)
    text, last = await answer(upstream, engine.offer, params("What is the capital of France?", stop=[" Paris"]), 20)
    assert (text, last.finish) == ("The capital of France is", "stop")
    drawn = params("Say something.", temperature=1.5, seed=7)
    assert (await answer(upstream, engine.offer, drawn, 12))[0] == (await answer(upstream, engine.offer, drawn, 12))[0]
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    text, _ = await answer(upstream, engine.offer, params("Give a number.", response_format=form), 40)
    assert isinstance(json.loads(text)["n"], int)


async def test_characters_of_several_tokens_come_whole(engine: Engine, upstream: LlamaCpp) -> None:
    text, last = await answer(upstream, engine.offer, params("Repeat exactly: 你好, 世界 😀"), 24)
    assert "\ufffd" not in text.removesuffix("\ufffd")
    assert last.usage.output <= 24


async def test_logprobs_have_one_entry_per_token(engine: Engine, upstream: LlamaCpp) -> None:
    tokens: list[str] = []
    asked = params("What is the capital of France?", logprobs=True, top_logprobs=2)
    async for event in upstream.stream(engine.offer, asked, 5, b""):
        if event.logprobs is not None:
            content = msgspec.json.decode(event.logprobs)["content"]
            assert all(len(one["top_logprobs"]) == 2 for one in content)
            tokens += [one["token"] for one in content]
    assert tokens == ["The", " capital", " of", " France", " is"]


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    engine: Engine, upstream: LlamaCpp
) -> None:
    with pytest.raises(UpstreamError, match=rf"has \d+ tokens.* holds {CONTEXT} tokens") as caught:
        await answer(upstream, engine.offer, params("word " * 2 * CONTEXT), 5)
    assert caught.value.status == 400


async def test_closing_the_iterator_frees_the_slot_at_once(engine: Engine, upstream: LlamaCpp) -> None:
    """A tenth of a second or so on a machine at work; the bound leaves room for a busier one."""
    pool = Pool()
    loop = asyncio.get_running_loop()
    took: list[float] = []
    for _ in range(5):
        async with aclosing(
            upstream.stream(engine.offer, params("Tell a story.", ignore_eos=True), 900, b"")
        ) as stream:
            await anext(stream)
            await anext(stream)
            assert await busy(engine, pool) == 1
            started = loop.time()
        while await busy(engine, pool):
            assert loop.time() - started < 5
        took.append(loop.time() - started)
    assert min(took) < 0.25, took
    await pool.close()


async def test_the_energy_clock_runs_while_it_works(engine: Engine, upstream: LlamaCpp) -> None:
    clock = engine.data / "energy" / "local.clock"
    before = struct.unpack_from("=QQ", clock.read_bytes())
    await answer(upstream, engine.offer, params("Count.", ignore_eos=True), 40)
    async with asyncio.timeout(5):
        while struct.unpack_from("=QQ", clock.read_bytes())[1] - before[1] < 50_000_000:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/slots", "/metrics", "/props", "/v1/models", "/"])
def test_without_the_key_it_tells_nothing(engine: Engine, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{engine.greeting['address']}{path}")
    with caught.value:
        assert caught.value.code in {401, 404}


def test_it_leaves_when_its_parent_is_gone(weights: Path, tmp_path: Path) -> None:
    with start(weights, tmp_path) as process:
        greeted(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def failure(model: Path, data: Path, key: str = KEY, *options: str) -> str:
    with start(model, data, key, *options) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1, err
    return err


def test_what_it_cannot_use_is_one_line_and_exit_code_2(weights: Path, engine: Engine, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with weights.open("rb") as file:
        cut.write_bytes(file.read(8 * 1024 * 1024))
    assert "cannot load the model file" in failure(cut, tmp_path)
    cut.write_bytes(b"nothing of the kind")
    assert "is not a GGUF file" in failure(cut, tmp_path)
    assert "No such file" in failure(tmp_path / "absent.gguf", tmp_path)
    assert "needs its key" in failure(weights, tmp_path, "")
    port = engine.greeting["address"].rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1:{port}" in failure(weights, tmp_path, KEY, "--port", port)
