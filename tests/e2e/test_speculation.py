"""Tokens that are drafted from earlier ones change no answer, no count and no bill: both engines, with and without."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import Raw
from tests.e2e.conftest import LLAMA_CPP, OPENVINO_HERE
from tests.e2e.local_engine import Engine, answer, params, running
from tests.fakes.mtp_model import write_mtp_model
from tests.platform import Platform, wait_for

from steelyard.engines.choice import OPENVINO, XLLAMACPP
from steelyard.engines.leash import LOCAL_UPSTREAM
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineLoad
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import Event
from steelyard.processes import engine_files
from steelyard.upstream.llama_cpp import LlamaCpp

FLOUR = "The price of flour is four coins per sack, and the price of wheat is three coins per sack."
HOUSE = "The red house stands by the red river, and the red bridge leads over the red river to the red house."
REPEAT, ALSO = (f"Repeat this text exactly, word for word: {text}" for text in (FLOUR, HOUSE))
ASKED = (REPEAT, ALSO)
"""Answers without a near tie: the next best token is 0.37 nats away or more. Sums of several tokens at once are rounded
otherwise than those of one, so that one of 0.08 nats falls to either side, with drafts and without."""
TOKENS = 16


class Pair(NamedTuple):
    """The same engine, the second one with drafts."""

    name: str
    plain: Engine
    drafting: Engine


@pytest.fixture(scope="module", params=[OPENVINO, XLLAMACPP])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name, lookup = request.param, ("--speculate", "lookup")
    if name == OPENVINO:
        command = ("engine_openvino", "--folder", str(request.getfixturevalue("folder")), *OPENVINO_HERE)
    else:
        command = ("engine", "--model", str(request.getfixturevalue("weights")), *LLAMA_CPP)
    plain = request.getfixturevalue("openvino" if name == OPENVINO else "llama_cpp")
    module, *options = command
    with running(module, tmp_path_factory.mktemp(name), *options, *lookup) as drafting:
        yield Pair(name, plain, drafting)


async def load(engine: Engine) -> EngineLoad:
    """What it tells of itself from now on, when nothing runs there."""
    now_ns = SystemClock().now_ns()
    async with asyncio.timeout(20):
        while True:
            seen = engine_files.seen(DataDir(engine.data), LOCAL_UPSTREAM)
            if seen is not None and seen.seen_ns > now_ns and seen.load is not None and not seen.load.running:
                return seen.load
            await asyncio.sleep(0.02)


async def both(pair: Pair, upstream: LlamaCpp, asked: dict[str, Raw], max_tokens: int) -> tuple[str, Event]:
    """The answer, which is the same from both, as is all that is metered."""
    plain, drafting = [await answer(upstream, one.offer, asked, max_tokens) for one in (pair.plain, pair.drafting)]
    assert plain[0] == drafting[0]
    of_plain, of_drafting = (
        (last.finish, last.usage.prompt, last.usage.output, last.stop_text) for _, last in (plain, drafting)
    )
    assert of_plain == of_drafting
    return drafting


async def test_greedy_answers_are_the_same_alone_and_together(pair: Pair, upstream: LlamaCpp) -> None:
    before = await load(pair.drafting)
    asked = [params(text, ignore_eos=True) for text in ASKED]
    alone = [await both(pair, upstream, one, TOKENS) for one in asked]
    together = await asyncio.gather(*(answer(upstream, pair.drafting.offer, one, TOKENS) for one in asked))
    assert [text for text, _ in alone] == [text for text, _ in together]
    assert {(last.finish, last.usage.output) for _, last in together} == {("length", TOKENS)}
    await answer(
        upstream, pair.drafting.offer, params("ha ha ha he ha ha ha he ha ha", ignore_eos=True), TOKENS
    )  # in vain
    after = await load(pair.drafting)
    written, drafted, accepted = (
        (getattr(after, name) or 0) - (getattr(before, name) or 0)
        for name in ("decode_tokens", "drafted_tokens", "accepted_tokens")
    )
    assert written == (2 * len(ASKED) + 1) * TOKENS, "a draft is no token of an answer"
    assert 4 < accepted < drafted
    assert not (await load(pair.plain)).drafted_tokens


async def test_what_ends_an_answer_ends_it_amid_a_draft(pair: Pair, upstream: LlamaCpp) -> None:
    whole, last = await both(pair, upstream, params(REPEAT), 64)
    assert last.finish == "stop"
    _, last = await both(pair, upstream, params(REPEAT), 9)
    assert (last.finish, last.usage.output) == ("length", 9)
    stop = whole[-24:-12]
    text, last = await both(pair, upstream, params(REPEAT, stop=[stop]), 64)
    assert (text, last.finish) == (whole.partition(stop)[0], "stop")


async def test_a_form_is_kept_and_a_seed_draws_the_same(pair: Pair, upstream: LlamaCpp) -> None:
    schema = {"type": "object", "properties": {"s": {"enum": [FLOUR]}}, "required": ["s"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "additionalProperties": False}}}
    text, _ = await both(pair, upstream, params(REPEAT, response_format=form), 64)
    assert msgspec.json.decode(text) == {"s": FLOUR}
    if pair.name == OPENVINO:  # llama.cpp draws otherwise with drafts; each draw is as fair
        await both(pair, upstream, params("Say something.", temperature=1.2, seed=7), 24)


async def test_logprobs_have_one_entry_per_token_or_are_refused(pair: Pair, upstream: LlamaCpp) -> None:
    asked = params(REPEAT, logprobs=True, top_logprobs=1)
    if pair.name == XLLAMACPP:
        with pytest.raises(UpstreamError, match="'logprobs' are not told by an engine that drafts tokens") as caught:
            await answer(upstream, pair.drafting.offer, asked, 9)
        assert (caught.value.status, caught.value.param) == (400, "logprobs")
        return
    told: list[list[Any]] = []
    for engine in (pair.plain, pair.drafting):
        events = [event async for event in upstream.stream(engine.offer, asked, 20, b"")]
        told.append([token for one in events if one.logprobs for token in msgspec.json.decode(one.logprobs)["content"]])
    assert [len(tokens) for tokens in told] == [20, 20]
    for one, other in zip(*told, strict=True):
        assert one["token"] == other["token"]
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3), "with 8 bits of cache it was 0.05"


@pytest.fixture(scope="module")
def mtp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """llama.cpp over a tiny model that has a layer for it, without and with it."""
    folder = tmp_path_factory.mktemp("mtp")
    command = ("--model", str(write_mtp_model(folder / "tiny.gguf")), "--slots", "2")
    drafts = (*command, "--speculate", "mtp")
    with running("engine", folder / "0", *command) as plain, running("engine", folder / "1", *drafts) as drafting:
        yield Pair(XLLAMACPP, plain, drafting)


async def test_layers_made_for_drafting_change_nothing_either(mtp: Pair, upstream: LlamaCpp) -> None:
    """How many of their drafts are right says nothing here, where the weights are noise; some are, and some are not."""
    before = await load(mtp.drafting)
    asked = [params(text, ignore_eos=True) for text in ("hello", "world", "the quick brown fox")]
    alone = [await both(mtp, upstream, one, 60) for one in asked]
    together = await asyncio.gather(*(answer(upstream, mtp.drafting.offer, one, 60) for one in asked))
    assert [text for text, _ in alone] == [text for text, _ in together]
    assert {(last.finish, last.usage.output) for _, last in together} == {("length", 60)}
    after = await load(mtp.drafting)
    drafted = (after.drafted_tokens or 0) - (before.drafted_tokens or 0)
    accepted = (after.accepted_tokens or 0) - (before.accepted_tokens or 0)
    assert (after.decode_tokens or 0) - (before.decode_tokens or 0) == 2 * len(asked) * 60
    assert 0 < accepted < drafted
    assert not (await load(mtp.plain)).drafted_tokens
    whole = alone[0][0]
    text, last = await both(mtp, upstream, params("hello", ignore_eos=True, stop=[whole[7:10]]), 60)
    assert (text, last.finish) == (whole.partition(whole[7:10])[0], "stop")
    with pytest.raises(UpstreamError, match="'logprobs' are not told by an engine that drafts tokens"):
        await answer(upstream, mtp.drafting.offer, params("hello", logprobs=True, top_logprobs=1), 5)


async def test_the_bill_counts_the_answer_and_the_operator_sees_the_drafts(
    tmp_path: Path, llama_cpp: Engine, upstream: LlamaCpp
) -> None:
    platform = Platform(tmp_path / "data", "--engine", XLLAMACPP, "--speculate", "lookup").start()
    try:
        asked = {"messages": [{"role": "user", "content": REPEAT}], "temperature": 0, "max_tokens": 64}
        model = llama_cpp.greeting["model"]
        answered, request_id = await asyncio.to_thread(platform.post, "/v1/chat/completions", {"model": model, **asked})
        receipt = await asyncio.to_thread(platform.posted_receipt, request_id)
        _, without = await answer(upstream, llama_cpp.offer, params(REPEAT), 64)
        assert receipt["output_tokens"] == answered["usage"]["completion_tokens"] == without.usage.output
        assert receipt["prompt_tokens"] == without.usage.prompt

        def drafts() -> dict[str, Any] | None:
            seen: dict[str, Any] = platform.run("engine", "show", LOCAL_UPSTREAM)
            return seen if seen["accepted_tokens"] and not seen["running"] else None

        seen = await asyncio.to_thread(wait_for, drafts, "the drafts to be told")
        assert seen["drafted_tokens"] > seen["accepted_tokens"] > 0
        assert (seen["kind"], seen["state"]) == (XLLAMACPP, "running")
    finally:
        assert platform.stop() == 0
