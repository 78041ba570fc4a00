"""The real engine in its own process, asked through the adapter: counts, refusals, cancellation, its end."""

import asyncio
import json
import re
import struct
import urllib.error
import urllib.request
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from tests.e2e.local_engine import (
    CONTEXT,
    KEY,
    Engine,
    answer,
    busy,
    failure,
    greeted,
    params,
    start,
)

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.scheduling.wish import Turn
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool

OPTIONS = ("--threads", "1", "--slots", "2")


@pytest.fixture
def engine(llama_cpp: Engine) -> Engine:
    return llama_cpp


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
    with start("engine", tmp_path, "--model", str(weights), *OPTIONS) as process:
        greeted(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def test_what_it_cannot_use_is_one_line_and_exit_code_2(weights: Path, engine: Engine, tmp_path: Path) -> None:
    def said(model: Path, *options: str, key: str = KEY) -> str:
        return failure("engine", tmp_path, "--model", str(model), *OPTIONS, *options, key=key)

    cut = tmp_path / "cut.gguf"
    with weights.open("rb") as file:
        cut.write_bytes(file.read(8 * 1024 * 1024))
    assert "cannot load the model file" in said(cut)
    cut.write_bytes(b"nothing of the kind")
    assert "is not a GGUF file" in said(cut)
    assert "No such file" in said(tmp_path / "absent.gguf")
    assert "needs its key" in said(weights, key="")
    assert "has no MTP layers: leave out --speculate" in said(weights, "--speculate", "mtp")
    port = engine.greeting["address"].rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1:{port}" in said(weights, "--port", port)
