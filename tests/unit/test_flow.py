"""The conductor against fakes of its parties, with the real journal and slots."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import PRICE, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, snapshot, words

from steelyard.flow import House, paid_request
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, ManualClock
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.ids import Ids
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Granted, HoldAsk, Order
from steelyard.kernel.settled import Closed, End, Opened, Position
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots
from steelyard.rating.bounds import worst_case_nano

clock = ManualClock()
ids = Ids(clock)


def order(**changes: object) -> Order:
    fields = {"request_id": ids.next(), "model": "m", "params": {}, "prompt_tokens_max": 50, "max_tokens": 20}
    return Order(**{**fields, "sequences": 1, "stream": True, **changes})  # type: ignore[arg-type]


class Scene:
    """A house in a folder, and what its journal says afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "w0-1"
        self.journal = Journal.create(self.folder, segment_bytes=1 << 20)
        self.slots = Slots.create(self.folder / "slots", 4)
        self.meter = Meter(self.journal, self.slots, clock, EnergyClocks(folder))
        self.teller = FakeTeller()

    def house(self, upstream: ScriptedUpstream) -> House:
        return House(self.teller, self.meter, {"fake": upstream}, clock)

    def records(self) -> list[Opened | Closed]:
        self.journal.sync()
        return read(self.folder, Position(0, 0), until=self.journal.end, max_records=100).records


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.meter.close()


async def test_a_whole_answer_is_opened_delivered_and_closed_once(scene: Scene) -> None:
    answer = FakeAnswer()
    asked = order()
    upstream = ScriptedUpstream(words("a", "b", "c"))
    settlement = await paid_request(scene.house(upstream), FakeAsk(asked), answer)
    assert answer.sent == [b"0:a;", b"0:b;", b"0:c;", b"end 13"]
    assert settlement.closed.usage == Usage(10, 0, 3)
    assert settlement.closed.end == End.COMPLETE
    opened, closed = scene.records()
    assert isinstance(opened, Opened) and isinstance(closed, Closed)
    assert opened.request_id == closed.request_id == asked.request_id
    assert opened.hold_nano == worst_case_nano(PRICE, 50, 20, 1)
    assert upstream.calls == [20]
    assert scene.teller.closings == 1
    assert scene.slots.free_count == 4


async def test_nothing_is_opened_without_a_known_key(scene: Scene) -> None:
    for authorization in (None, "", "Bearer nobody", "Basic x"):
        with pytest.raises(CallerError) as error:
            await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order(), authorization), FakeAnswer())
        assert error.value.status == 401
    assert scene.records() == []
    assert scene.teller.asked == []


@pytest.mark.parametrize(
    ("changes", "model", "status", "code"),
    [
        ({}, "nobody", 404, "model_not_found"),
        ({"prices": {}}, "m", 503, "price_missing"),
        ({"costs": {}}, "m", 503, "price_missing"),
    ],
)
async def test_what_cannot_be_sold_is_not_opened_and_holds_nothing(
    scene: Scene, changes: dict, model: str, status: int, code: str
) -> None:
    scene.teller.snapshot = snapshot(**changes)
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order(model=model)), FakeAnswer())
    assert (error.value.status, error.value.code) == (status, code)
    assert scene.records() == []
    assert scene.teller.holds == {}


async def test_an_empty_wallet_is_402(scene: Scene) -> None:
    scene.teller.purse_nano = 5
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer())
    assert error.value.status == 402
    scene.teller.busy = True
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer())
    assert (error.value.status, error.value.code, error.value.retry_after_s) == (429, "money_held", 1)
    assert scene.records() == []


async def test_a_small_wallet_lowers_what_is_forwarded(scene: Scene) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, 7, 1)
    upstream = ScriptedUpstream(words("a"))
    answer = FakeAnswer()
    await paid_request(scene.house(upstream), FakeAsk(order()), answer)
    assert upstream.calls == [7]
    assert answer.quote is not None and answer.quote.lowered
    assert answer.quote.hold_nano == scene.teller.purse_nano


async def test_who_holds_out_of_a_lease_asks_nobody(scene: Scene) -> None:
    class Lent(FakeTeller):
        def draw(self, ask: HoldAsk) -> Granted:
            return Granted(ask.want_nano, ask.max_tokens, "w0-1")

    scene.teller = Lent()
    await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer())
    opened = scene.records()[0]
    assert isinstance(opened, Opened) and opened.lease == "w0-1" and scene.teller.asked == []


async def test_the_models_own_limits_cap_the_hold(scene: Scene) -> None:
    answer = FakeAnswer()
    await paid_request(
        scene.house(ScriptedUpstream(words("a"))), FakeAsk(order(max_tokens=10**9, prompt_tokens_max=10**9)), answer
    )
    assert answer.quote is not None
    assert answer.quote.max_tokens == 500 and not answer.quote.lowered
    assert answer.quote.hold_nano == worst_case_nano(PRICE, 1000, 500, 1)


async def test_a_hang_up_settles_what_was_sent_and_cancels_the_upstream(scene: Scene) -> None:
    upstream = ScriptedUpstream(words("a", "b", "c", "d"))
    answer = FakeAnswer(pieces=2)
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), answer)
    assert settlement.closed.end == End.CLIENT_GONE
    assert settlement.closed.usage == Usage(10, 0, 2)
    assert (upstream.running, upstream.cancelled) == (0, 1)


async def test_a_hang_up_before_the_first_byte_costs_nothing(scene: Scene) -> None:
    settlement = await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer(pieces=0))
    assert settlement.closed.end == End.CLIENT_GONE
    assert settlement.closed.usage.total == 0


async def test_a_cancelled_task_with_the_client_gone_is_a_hang_up(scene: Scene) -> None:
    reached = asyncio.Event()

    class Slow(FakeAnswer):
        async def send(self, piece: bytes) -> None:
            await super().send(piece)
            if len(self.sent) == 2:
                reached.set()
                await asyncio.Event().wait()

    answer = Slow()
    task = asyncio.ensure_future(
        paid_request(scene.house(ScriptedUpstream(words("a", "b", "c"))), FakeAsk(order()), answer)
    )
    await reached.wait()
    answer.gone = True
    task.cancel()
    settlement = await task
    assert settlement.closed.end == End.CLIENT_GONE
    assert settlement.closed.usage.output == 1, "the piece that was being sent is not counted"
    assert settlement.closed.short_by_one_read


async def test_a_stop_of_the_platform_settles_and_passes_the_cancellation_on(scene: Scene) -> None:
    reached = asyncio.Event()

    class Slow(FakeAnswer):
        async def send(self, piece: bytes) -> None:
            await super().send(piece)
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), Slow()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closed = scene.records()[-1]
    assert isinstance(closed, Closed) and closed.end == End.DRAINED


@pytest.mark.parametrize(("status", "end"), [(400, End.REFUSED), (500, End.UPSTREAM_ERROR), (0, End.UPSTREAM_ERROR)])
async def test_an_upstream_that_fails_before_the_first_byte_costs_nothing(scene: Scene, status: int, end: End) -> None:
    upstream = ScriptedUpstream([UpstreamError("fake", "no", status=status)])
    with pytest.raises(UpstreamError):
        await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    closed = scene.records()[-1]
    assert isinstance(closed, Closed)
    assert (closed.end, closed.usage.total) == (end, 0)
    assert scene.slots.free_count == 4


async def test_an_upstream_that_fails_in_the_middle_is_told_and_settled(scene: Scene) -> None:
    upstream = ScriptedUpstream([*words("a", "b")[:2], UpstreamError("fake", "broken")])
    answer = FakeAnswer()
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), answer)
    assert answer.sent == [b"0:a;", b"0:b;", b"failed"]
    assert settlement.closed.end == End.UPSTREAM_ERROR
    assert settlement.closed.usage == Usage(10, 0, 2)


async def test_sequences_are_called_one_by_one_and_summed(scene: Scene) -> None:
    upstream = ScriptedUpstream(words("a", "b", prompt=10, cached=4))
    answer = FakeAnswer()
    settlement = await paid_request(scene.house(upstream), FakeAsk(order(sequences=3)), answer)
    assert len(upstream.calls) == 3
    assert settlement.closed.usage == Usage(18, 12, 6)
    assert answer.sent[-1] == b"end 36"
    assert answer.quote is not None
    assert answer.quote.hold_nano == worst_case_nano(PRICE, 50, 20, 3)


async def test_one_failing_sequence_cancels_the_others(scene: Scene) -> None:
    upstream = ScriptedUpstream([UpstreamError("fake", "no")])
    with pytest.raises(UpstreamError):
        await paid_request(scene.house(upstream), FakeAsk(order(sequences=3)), FakeAnswer())
    assert upstream.running == 0


async def test_more_requests_than_slots_are_429_and_hold_nothing(scene: Scene) -> None:
    for _ in range(4):
        assert scene.slots.claim(ids.next()) is not None
    with pytest.raises(CallerError) as error:
        await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer())
    assert error.value.status == 429
    assert scene.teller.holds == {}
    assert limits.SLOTS_PER_WORKER >= 1024


@pytest.mark.parametrize(("before_ns", "tariff"), [(1, 1), (0, 2)])
async def test_price_change_at_the_second_the_open_time_wins(scene: Scene, before_ns: int, tariff: int) -> None:
    """Regression: the hold took its time, the price changed meanwhile, and the request was opened after the change at
    the price from before it."""
    switch_ns = clock.now_ns() + before_ns
    dearer = msgspec.structs.replace(PRICE, id=2, effective_from_ns=switch_ns)

    class SlowTeller(FakeTeller):
        async def hold(self, ask: HoldAsk) -> Granted:
            clock.advance(250 * NS_PER_MS)
            return await super().hold(ask)

    scene.teller = SlowTeller(snapshot_=snapshot(prices={"m": (dearer, PRICE)}))
    opened = (await paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), FakeAnswer())).opened
    assert opened.price_id == tariff
    assert (opened.opened_ns >= switch_ns) == (tariff == 2)
