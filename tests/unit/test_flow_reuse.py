"""Answers that are given again: for whom, for how long, and what the books say of them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import (
    CALLER,
    COST,
    KEY,
    OFFER,
    PRICE,
    FakeAnswer,
    FakeAsk,
    ScriptedUpstream,
    snapshot,
    words,
)
from tests.unit.test_flow import Scene, clock, order

from steelyard.flow import paid_request
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.ids import API_KEY_PREFIX, secret_hash
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.kernel.reuse import ANSWER_CACHE
from steelyard.kernel.routes import Route, Routes, RouteScope
from steelyard.kernel.settled import End, Settlement
from steelyard.kernel.tariff import TariffLine
from steelyard.metering.slots import Slots
from steelyard.rating.rate import charge_nano, rate
from steelyard.upstream.answer_cache import AnswerCache

replace = msgspec.structs.replace
OTHER_KEY = API_KEY_PREFIX + "other"
OTHER = replace(CALLER, key_id=2, project_id=2, tenant_id=2, tenant="other")
CACHED = (TariffLine(Meter.REUSED_INPUT, "0.1", 100_000, 1), TariffLine(Meter.REUSED_OUTPUT, "1", 1_000_000, 1))
HIT = Usage(reused_input=10, reused_output=2)


class Asking:
    """A house whose upstream counts its calls; requests as a customer writes them."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder)
        self.scene.teller.snapshot = snapshot(callers={secret_hash(KEY): CALLER, secret_hash(OTHER_KEY): OTHER})
        self.upstream = ScriptedUpstream(words("a", "b"))
        self.answers = AnswerCache(clock)
        self.house = dataclasses.replace(self.scene.house(self.upstream), answers=self.answers)
        self.answer = FakeAnswer()

    async def ask(self, reuse: str = "answer", key: str = KEY, *, pieces: int | None = None, **asked: object) -> str:
        """What the cache says of it."""
        settled = await self.settled(reuse, key, pieces=pieces, **asked)
        quote = self.answer.quote
        assert quote is not None
        assert settled.closed.usage.is_reused == (settled.opened.upstream == ANSWER_CACHE)
        return "" if quote.reuse is None else quote.reuse.said

    async def settled(
        self, reuse: str = "answer", key: str = KEY, *, pieces: int | None = None, **asked: object
    ) -> Settlement:
        params = {"messages": b'[{"role":"user","content":"hello"}]', "temperature": b"0"}
        params |= asked.pop("params", {})  # type: ignore[arg-type]
        raw = {name: msgspec.Raw(value) for name, value in params.items()}
        self.answer = FakeAnswer(pieces)
        ask = FakeAsk(order(params=raw, reuse=reuse, **asked), f"Bearer {key}")
        return await paid_request(self.house, ask, self.answer)


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.scene.meter.close()


async def test_a_hit_is_a_whole_paid_request_that_no_upstream_is_called_for(asking: Asking) -> None:
    assert await asking.ask() == "miss"
    said = asking.answer.sent
    clock.advance(12 * NS_PER_S)
    settled = await asking.settled()
    assert asking.answer.quote is not None and asking.answer.quote.reuse is not None
    assert asking.answer.quote.reuse.said == "hit; age=12"
    assert asking.upstream.calls == [20]
    assert b"".join(said) == b"0:a;0:b;end 12"
    assert asking.answer.sent == [b"0:ab;", b"end 12"], "in as few pieces as say it"
    assert settled.closed.usage == HIT
    assert (settled.closed.end, settled.opened.upstream) == (End.COMPLETE, ANSWER_CACHE)
    assert settled.opened.hold_nano == 50 * 2000 + 20 * 10_000
    opened, _, again, closed = asking.scene.records()
    assert (again, closed) == (settled.opened, settled.closed)
    assert opened.upstream == "fake"
    assert asking.scene.teller.closings == 2
    assert asking.scene.slots.free_count == 4


async def test_a_hit_has_its_own_price_or_that_of_the_answer_and_costs_us_nothing(asking: Asking) -> None:
    await asking.ask()
    settled = await asking.settled()
    like_any = rate(settled, PRICE, COST)
    assert like_any.charge_nano == 10 * 2000 + 2 * 10_000, "no price of its own: never nothing"
    assert like_any.cost_nano == 0
    cheaper = replace(PRICE, lines=(*PRICE.lines, *CACHED))
    assert rate(settled, cheaper, COST).charge_nano == 10 * 100 + 2 * 1000
    assert charge_nano(settled.closed.usage, cheaper) == 3000, "the answer tells what is posted"


async def test_no_vendor_is_owed_anything_for_a_hit(asking: Asking) -> None:
    fee = TariffLine(Meter.CALL, "1", 10**12, 1)
    vendor = replace(PRICE, id=2, subject="fake", lines=(*PRICE.lines, fee))
    asking.scene.teller.snapshot = replace(asking.scene.teller.snapshot, costs={"fake": (vendor,)})
    await asking.ask()
    for pieces, settled in ((None, await asking.settled()), (1, await asking.settled(pieces=1))):
        rated = rate(settled, PRICE, vendor)
        assert settled.opened.upstream == ANSWER_CACHE
        assert (rated.vendor_cost_nano, rated.payable_nano) == (0, 0), pieces


async def test_a_hold_covers_a_price_of_its_own_that_is_dearer(asking: Asking) -> None:
    dear = (TariffLine(Meter.REUSED_INPUT, "3", 3_000_000, 1), TariffLine(Meter.REUSED_OUTPUT, "20", 20_000_000, 1))
    price = replace(PRICE, lines=(*PRICE.lines, *dear))
    asking.scene.teller.snapshot = replace(asking.scene.teller.snapshot, prices={"m": (price,)})
    await asking.ask()
    settled = await asking.settled()
    assert rate(settled, price, COST).charge_nano == 10 * 3000 + 2 * 20_000
    assert settled.opened.hold_nano == 50 * 3000 + 20 * 20_000


async def test_nobody_is_given_what_another_tenant_was_answered(asking: Asking) -> None:
    assert await asking.ask() == "miss"
    assert await asking.ask(key=OTHER_KEY) == "miss"
    assert (await asking.ask(), await asking.ask(key=OTHER_KEY)) == ("hit; age=0", "hit; age=0")


@pytest.mark.parametrize(
    "changed",
    [
        {"params": {"messages": b'[{"role":"user","content":"hello!"}]'}},
        {"params": {"top_p": b"0.5"}},
        {"params": {"temperature": b"0.0", "seed": b"1"}},
        {"max_tokens": 19},
    ],
)
async def test_another_request_is_another_answer(asking: Asking, changed: dict[str, object]) -> None:
    await asking.ask()
    assert await asking.ask(**changed) == "miss"


async def test_how_a_request_is_written_down_and_answered_makes_no_difference(asking: Asking) -> None:
    await asking.ask(params={"top_p": b"0.5"})
    params = {"top_p": b" 0.5 ", "messages": b'[ {"content":"hello", "role":"user"} ]'}
    assert await asking.ask(params=params, stream=False) == "hit; age=0"


@pytest.mark.parametrize(
    ("reuse", "changed", "said"),
    [
        ("", {}, ""),
        ("off", {}, ""),
        ("answer", {"params": {"temperature": b"0.7"}}, "bypass"),
        ("answer", {"params": {"temperature": b"0.7", "seed": b"7"}}, "hit; age=0"),
        ("any", {"params": {"temperature": b"0.7"}}, "hit; age=0"),
        ("answer", {"sequences": 2}, "bypass"),
        ("any", {"sequences": 2}, "bypass"),
        ("refresh", {}, "refresh"),
    ],
)
async def test_only_who_asks_for_it_and_only_what_is_answered_alike(
    asking: Asking, reuse: str, changed: dict[str, object], said: str
) -> None:
    for _ in range(2):
        last = await asking.ask(reuse, **changed)
    assert last == said
    assert len(asking.upstream.calls) == (1 if said.startswith("hit") else 2 * changed.get("sequences", 1))  # type: ignore[operator]


async def test_without_a_temperature_nothing_promises_the_same_answer(asking: Asking) -> None:
    params = {"messages": b'[{"role":"user","content":"hello"}]'}
    raw = {name: msgspec.Raw(value) for name, value in params.items()}
    await paid_request(asking.house, FakeAsk(order(params=raw, reuse="answer")), asking.answer)
    assert len(asking.answers) == 0


async def test_an_operator_can_have_it_for_all_requests_of_a_key(asking: Asking) -> None:
    rule = Route(RouteScope.KEY, "1", answers_s=60)
    asking.scene.teller.snapshot = replace(asking.scene.teller.snapshot, routes=Routes(keys={1: rule}))
    assert [await asking.ask("") for _ in range(2)] == ["miss", "hit; age=0"]
    assert await asking.ask("off") == ""
    assert await asking.ask("", OTHER_KEY) == ""
    clock.advance(60 * NS_PER_S)
    assert await asking.ask("") == "miss"


async def test_answers_grow_old(asking: Asking) -> None:
    await asking.ask()
    clock.advance(10 * NS_PER_S)
    assert await asking.ask("answer; max-age=11") == "hit; age=10"
    assert await asking.ask("answer; max-age=10") == "miss"
    clock.advance(limits.ANSWER_CACHED_S * NS_PER_S)
    assert await asking.ask() == "miss"
    await asking.ask("refresh")
    assert await asking.ask("answer; max-age=1") == "hit; age=0"


@pytest.mark.parametrize("word", ["yes", "answer; max-age=-1", "answer; max-age=", "answer; age=1", "answer, any"])
async def test_a_word_that_means_nothing_is_refused(asking: Asking, word: str) -> None:
    with pytest.raises(CallerError) as error:
        await asking.ask(word)
    assert (error.value.status, error.value.param) == (400, "x-steelyard-cache")
    assert asking.scene.records() == []
    assert asking.scene.teller.holds == {}


async def test_only_whole_answers_are_kept(asking: Asking) -> None:
    await asking.ask(pieces=1)
    assert len(asking.answers) == 0, "who hung up in the middle"
    asking.upstream.script = [*words("a")[:1], Event("", Usage(10, 0, 1), "content_filter")]
    await asking.ask()
    assert len(asking.answers) == 0
    asking.scene.teller.purse_nano = 50 * 2000 + 2 * 10_000
    asking.upstream.script = [*words("a", "b")[:2], Event("", Usage(10, 0, 2), "length")]
    await asking.ask()
    assert len(asking.answers) == 0, "the wallet ended it, not the model"


async def test_an_answer_that_its_cap_ended_answers_that_cap_only(asking: Asking) -> None:
    asking.upstream.script = [*words("a", "b")[:2], Event("", Usage(10, 0, 2), "length")]
    await asking.ask(max_tokens=2)
    assert await asking.ask(max_tokens=2) == "hit; age=0"
    assert await asking.ask(max_tokens=3) == "miss"


async def test_a_wallet_that_covers_less_than_the_kept_answer_is_not_sold_it(asking: Asking) -> None:
    await asking.ask()
    asking.scene.teller.purse_nano = 50 * 2000 + 1 * 10_000
    assert await asking.ask() == "miss"


async def test_another_model_under_the_name_does_not_answer_for_the_one_before(asking: Asking) -> None:
    await asking.ask()
    model = Model(1, "m", 0, 100, (replace(OFFER, upstream_model="m-2"),))
    asking.scene.teller.snapshot = replace(asking.scene.teller.snapshot, models={"m": model})
    assert await asking.ask() == "miss"


async def test_a_model_that_answers_in_the_place_of_another_may_have_its_answer_in_the_cache(asking: Asking) -> None:
    other = Model(2, "other", 0, 100, (replace(OFFER, id=2, model="other", upstream_model="o"),))
    known = asking.scene.teller.snapshot
    models, prices = known.models | {"other": other}, known.prices | {"other": (replace(PRICE, id=9, subject="other"),)}
    asking.scene.teller.snapshot = replace(known, models=models, prices=prices)
    assert await asking.ask(model="other") == "miss"
    asking.upstream.script = [UpstreamError("fake", "is away", retryable=True)]
    settled = await asking.settled(fallbacks=("other",))
    assert (settled.opened.model, settled.opened.upstream, settled.closed.usage) == ("other", ANSWER_CACHE, HIT)
    asking.upstream.script = words("a", "b")
    assert await asking.ask(fallbacks=("other",)) == "miss"
    assert await asking.ask() == "hit; age=0", "it is kept for the model that said it"


async def test_calls_reasoning_and_logprobs_come_back_as_they_were(asking: Asking) -> None:
    script = [
        Event(reasoning="hm", usage=Usage(8, 2, 0, reasoning=1)),
        Event("a", Usage(8, 2, 1, reasoning=1), logprobs=msgspec.Raw(b'{"content":[]}')),
        Event("b", Usage(8, 2, 2, reasoning=1)),
        Event("c", Usage(8, 2, 3, reasoning=1)),
        Event(tool_calls=(CallPiece(0, "call_1", "f", "{}"),), usage=Usage(8, 2, 4, reasoning=1)),
        Event("", Usage(8, 2, 4, reasoning=1), "tool_calls"),
    ]
    asking.upstream.script = script
    await asking.ask()
    heard: list[Event] = []
    asking.answer.render = lambda sequence, event: b""  # type: ignore[method-assign]
    settled = await asking.settled()
    assert settled.closed.usage == Usage(reused_input=10, reused_output=5)
    quote = asking.answer.quote
    assert quote is not None and quote.reuse is not None
    async for _, event, _ in asking.answers.speaking(quote, lambda *_: None)(quote, False):
        heard.append(event)
    assert [(one.text, one.reasoning) for one in heard] == [("", "hm"), ("a", ""), ("bc", ""), ("", ""), ("", "")]
    assert [one.usage.reused_output for one in heard] == [1, 2, 4, 5, 5]
    assert heard[1].logprobs == script[1].logprobs
    assert heard[3].tool_calls == script[4].tool_calls
    assert heard[4].finish == "tool_calls"


async def test_the_bounds_of_the_cache(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(number: int, key: str = KEY) -> str:
        return await asking.ask(key=key, params={"seed": b"%d" % number})

    await ask(0)
    size = asking.answers.bytes
    monkeypatch.setattr(limits, "ANSWER_CACHE_BYTES_PER_TENANT_MAX", 2 * size)
    await ask(1, OTHER_KEY)
    await ask(1)
    assert await ask(0) == "hit; age=0"
    await ask(2)
    assert await ask(0) == "hit; age=0"
    assert await ask(1) == "miss", "his own that was unused for longest has given way"
    assert await ask(1, OTHER_KEY) == "hit; age=0", "and nobody else's"
    monkeypatch.setattr(limits, "ANSWER_CACHE_ENTRIES_MAX", 1)
    await ask(3)
    assert len(asking.answers) == 1
    monkeypatch.setattr(limits, "ANSWER_CACHED_BYTES_MAX", 10)
    await ask(4)
    assert await ask(4) == "miss"
    assert asking.answers.bytes == size


async def test_what_a_hit_has_delivered_stands_in_its_slot(asking: Asking) -> None:
    await asking.ask()
    await asking.settled()
    cells = Slots.open(asking.scene.folder / "slots")
    slot = cells.read_slot(asking.scene.records()[-2].slot)  # type: ignore[union-attr]
    cells.close()
    assert (slot.committed, slot.intended) == (HIT, HIT)
    assert not slot.estimated
    assert not slot.short_by_one_read
