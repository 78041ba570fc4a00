"""OpenVINO GenAI behind our listener, in its own process, asked through the adapter. One process for all of it."""

import asyncio
import json
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.e2e.local_engine import CONTEXT, KEY, Engine, answer, busy, failure, params
from tests.fakes.parties import FakeWork

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import Turn
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool

OPTIONS = ("--slots", "8", "--precision", "f32")
FRANCE = "What is the capital of France?"
pytestmark = pytest.mark.usefixtures("folder")  # skips where OpenVINO cannot run


@pytest.fixture
def engine(openvino: Engine) -> Engine:
    return openvino


def completion(prompt: Any, **fields: Any) -> dict[str, Raw]:
    return {
        name: Raw(msgspec.json.encode(value)) for name, value in {"prompt": prompt, "temperature": 0, **fields}.items()
    }


def form_of(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_what_it_says_of_itself(engine: Engine) -> None:
    told = dict(engine.greeting)
    assert told.pop("address").startswith("127.0.0.1:")
    assert told == {"model": "smollm2-135m-instruct", "context_tokens": CONTEXT, "slots": 8}


async def test_paris_and_its_counts(engine: Engine, upstream: LlamaCpp) -> None:
    text, last = await answer(upstream, engine.offer, params(FRANCE), 20)
    assert text == "The capital of France is Paris."
    assert (last.finish, last.usage) == ("stop", Usage(input=16, output=8)), "seven tokens and the end-of-text"
    assert await upstream.count(engine.offer, params(FRANCE)) == 16
    assert await upstream.ready(engine.offer)


async def test_our_account_of_the_prefix_cache_against_the_work_it_saves(engine: Engine, upstream: LlamaCpp) -> None:
    """OpenVINO tells no cached tokens. What we count must be what it did not compute: CPU time says so, roughly."""
    asked = params("".join(f"Item {n} of the list is the number {n * n}. " for n in range(36)))
    used, usages = [], []
    for _ in range(2):
        before = engine.cpu_s()
        _, last = await answer(upstream, engine.offer, asked, 1)
        used.append(engine.cpu_s() - before)
        usages.append(last.usage)
    cold, warm = usages
    assert (cold.cached_input, cold.input + cold.cached_input) == (0, warm.input + warm.cached_input)
    assert warm.cached_input == (cold.input - 1) // 32 * 32 > 400
    assert used[1] < used[0] / 2, used


async def test_length_stop_and_seed(engine: Engine, upstream: LlamaCpp) -> None:
    _, last = await answer(upstream, engine.offer, params(FRANCE), 3)
    assert (last.finish, last.usage.output) == ("length", 3)
    text, last = await answer(upstream, engine.offer, params(FRANCE, stop=["x", "al of Fr"]), 20)
    assert (text, last.finish, last.stop_text) == ("The capit", "stop", "al of Fr")
    drawn = params("Say something.", temperature=1.5, seed=7)
    both = await asyncio.gather(*(answer(upstream, engine.offer, drawn, 12) for _ in range(2)))
    assert both[0][0] == both[1][0]
    assert (await answer(upstream, engine.offer, params("Say something.", temperature=1.5, seed=8), 12))[0] != both[0][
        0
    ]


async def test_characters_of_several_tokens_come_whole(engine: Engine, upstream: LlamaCpp) -> None:
    text, _ = await answer(upstream, engine.offer, params("Repeat exactly: 你好, 世界 😀"), 24)
    assert text == "Repeat exactly: 你好, 世界 😀"


async def test_completions_of_texts_and_token_ids(engine: Engine, upstream: LlamaCpp) -> None:
    of_text, last = await answer(upstream, engine.offer, completion("The capital of France is"), 4)
    of_ids, _ = await answer(upstream, engine.offer, completion([504, 3575, 282, 4649, 314]), 4)
    assert of_text == of_ids
    assert of_text.startswith(" Paris")
    assert last.usage == Usage(input=5, output=4)
    with pytest.raises(UpstreamError, match="vocabulary does not have"):
        await answer(upstream, engine.offer, completion([1, 99_999]), 4)


async def test_logprobs_have_one_entry_per_token(engine: Engine, upstream: LlamaCpp) -> None:
    tokens: list[Any] = []
    async for event in upstream.stream(engine.offer, params(FRANCE, logprobs=True, top_logprobs=1), 5, b""):
        if event.logprobs is not None:
            tokens += msgspec.json.decode(event.logprobs)["content"]
    assert [one["token"] for one in tokens] == ["The", " capital", " of", " France", " is"]
    assert all(one["logprob"] <= 0 and one["top_logprobs"][0]["token"] == one["token"] for one in tokens)


async def test_a_form_is_kept_and_one_that_cannot_be_is_refused_before_it_does_harm(
    engine: Engine, upstream: LlamaCpp
) -> None:
    """A form that cannot be compiled would make a step fail, and everybody's answer with it."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    async with aclosing(upstream.stream(engine.offer, params("Count.", ignore_eos=True), 60, b"")) as other:
        await anext(other)
        for wrong in ({"type": "nonsense"}, {"type": "string", "pattern": "[a-z"}, {"$ref": "#/$defs/none"}):
            with pytest.raises(UpstreamError, match="'response_format' cannot be kept") as caught:
                await answer(upstream, engine.offer, params("Hi", response_format=form_of(wrong)), 5)
            assert caught.value.status == 400
        with pytest.raises(UpstreamError, match="bounds a repetition by 1000000"):
            await answer(upstream, engine.offer, params("Hi", response_format=form_of({"maxLength": 1_000_000})), 5)
        text, _ = await answer(upstream, engine.offer, params("A number.", response_format=form_of(schema)), 40)
        assert isinstance(json.loads(text)["n"], int)
        rest = [event async for event in other]
    assert rest[-1].usage.output == 60


async def test_what_it_cannot_do_is_refused_by_name(engine: Engine, upstream: LlamaCpp) -> None:
    for field, value in (("logit_bias", {"5": 1}), ("mirostat", 2)):
        with pytest.raises(UpstreamError, match=f"'{field}' is not supported") as caught:
            await answer(upstream, engine.offer, params(FRANCE, **{field: value}), 5)
        assert caught.value.status == 400
    with pytest.raises(UpstreamError, match=rf"has \d+ tokens.* holds {CONTEXT} tokens"):
        await answer(upstream, engine.offer, params("word " * 2 * CONTEXT), 5)


async def test_more_than_fit_at_once_are_all_answered_and_counted(engine: Engine, upstream: LlamaCpp) -> None:
    asked = [params(f"Tell me about the number {n}.", ignore_eos=True) for n in range(12)]
    answers = await asyncio.gather(*(answer(upstream, engine.offer, one, 8) for one in asked))
    assert {last.usage.output for _, last in answers} == {8}
    alone, _ = await answer(upstream, engine.offer, asked[3], 8)
    assert alone == answers[3][0]


async def test_closing_the_iterator_frees_its_place(engine: Engine, upstream: LlamaCpp) -> None:
    pool = Pool()
    async with aclosing(upstream.stream(engine.offer, params("Tell a story.", ignore_eos=True), 900, b"")) as stream:
        await anext(stream)
        assert await busy(engine, pool) == 1
    async with asyncio.timeout(5):
        while await busy(engine, pool):
            await asyncio.sleep(0.01)
    await pool.close()


async def test_the_energy_clock_runs_while_it_works(engine: Engine, upstream: LlamaCpp) -> None:
    clock = engine.data / "energy" / "local.clock"
    before = struct.unpack_from("=QQ", clock.read_bytes())
    await answer(upstream, engine.offer, params("Count.", ignore_eos=True), 10)
    async with asyncio.timeout(5):
        while struct.unpack_from("=QQ", clock.read_bytes())[1] - before[1] < 50_000_000:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/slots", "/props", "/v1/models", "/"])
def test_without_the_key_it_tells_nothing(engine: Engine, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{engine.greeting['address']}{path}")
    with caught.value:
        assert caught.value.code == 401


def test_nothing_of_openvino_calls_home() -> None:
    """Its Python package sends an event when it is imported, unless its telemetry client is not there."""
    lines = [
        "from steelyard.engines.silent import genai, tensor_of",
        "genai(), tensor_of([1])",
        "import sys; print(sorted(name for name in sys.modules if name.startswith('openvino_telemetry')))",
        "print(sys.modules['openvino_telemetry'])",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "['openvino_telemetry']\nNone\n"


def test_what_it_cannot_use_is_one_line_and_exit_code_2(folder: Path, engine: Engine, tmp_path: Path) -> None:
    port = engine.greeting["address"].rpartition(":")[2]
    for place, key, options, said in (
        (tmp_path, KEY, (), "missing or cut short"),
        (folder, "", (), "needs its key"),
        (folder, KEY, ("--port", port), f"cannot listen on 127.0.0.1:{port}"),
    ):
        told = failure("engine_openvino", tmp_path, "--folder", str(place), *OPTIONS, *options, key=key)
        assert said in told


async def test_lines_of_a_batch_make_way_and_say_and_count_what_they_would_have(
    engine: Engine, upstream: LlamaCpp
) -> None:
    asked = [params(f"Name the number {n} in words, and go on.", ignore_eos=True) for n in range(3)]
    unbroken = await asyncio.gather(*(answer(upstream, engine.offer, one, 36) for one in asked))
    await asyncio.sleep(limits.BATCH_RETURNS_MS / 1000)  # so long after these, lines of batches run all again
    told: list[list[Event]] = [[] for _ in asked]
    works = [FakeWork() for _ in asked]

    async def line(number: int) -> None:
        work = works[number]
        turn = Turn(1, 86_400, begins=work.begins, stops=work.stops)
        async for event in upstream.stream(engine.offer, asked[number], 36, b"", turn=turn):
            told[number].append(event)

    counts: list[list[int]] = []
    async with asyncio.TaskGroup() as group:
        for number in range(len(asked)):
            group.create_task(line(number))
        while not all(told):
            await asyncio.sleep(0.01)
        async for _ in upstream.stream(engine.offer, params(FRANCE, ignore_eos=True), 8, b"", turn=Turn(2)):
            counts.append([len(events) for events in told])
    # What was on its way when they were told to rest has come by the middle of the answer that is waited for.
    rested = [first == last for first, last in zip(counts[len(counts) // 2], counts[-1], strict=True)]
    assert rested.count(True) == 2, "one of the eight places is left to the batch"
    assert sorted(work.told for work in works) == [["begins", "stops"], *[["begins", "stops"] * 2] * 2]
    for events, (text, last) in zip(told, unbroken, strict=True):
        assert "".join(event.text for event in events) == text
        assert [event.usage.output for event in events] == sorted({event.usage.output for event in events})
        assert (events[-1].finish, events[-1].usage) == (last.finish, last.usage)
