"""The conductor with several offers: whoever fails before the first byte is left for the next, on record."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import COST, OFFER, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, snapshot, words

from steelyard.flow import House, paid_request
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order
from steelyard.kernel.settled import Closed, End, Entry, Moved, Opened, Position
from steelyard.kernel.why import Tried
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots

clock = ManualClock()
ids = Ids(clock)
BROKEN = UpstreamError("x", "it broke", status=500, retryable=True)
NAMES = ("first", "second", "third")


def order(*, stream: bool = True, **changes: object) -> Order:
    fields = {"request_id": ids.next(), "model": "m", "params": {}, "prompt_tokens_max": 50, "max_tokens": 20}
    return Order(**{**fields, "sequences": 1, "stream": stream, **changes})  # type: ignore[arg-type]


class Silent(ScriptedUpstream):
    """Never says a word."""

    async def stream(self, *arguments: object):  # type: ignore[override]
        self.running += 1
        try:
            await asyncio.Event().wait()
            yield Event()
        finally:
            self.running -= 1


class Scene:
    """A house with three upstreams, each with an offer of the model and a cost tariff of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "w0-1"
        self.journal = Journal.create(self.folder, segment_bytes=1 << 20)
        self.slots = Slots.create(self.folder / "slots", 4)
        meter = Meter(self.journal, self.slots, clock, EnergyClocks(folder))
        replace = msgspec.structs.replace
        offers = tuple(replace(OFFER, id=place, upstream=name) for place, name in enumerate(NAMES, 1))
        costs = {name: (replace(COST, id=10 + place, subject=name),) for place, name in enumerate(NAMES)}
        self.teller = FakeTeller(snapshot_=snapshot(models={"m": Model(1, "m", 0, 100, offers)}, costs=costs))
        self.upstreams: dict[str, ScriptedUpstream] = {}
        self.house = House(self.teller, meter, self.upstreams, clock)
        self.meter = meter

    def upstream(self, name: str, *script: Event | Exception) -> ScriptedUpstream:
        self.upstreams[name] = ScriptedUpstream(script or words("a", "b"))
        return self.upstreams[name]

    async def ask(self, asked: Order | None = None) -> tuple[FakeAnswer, str]:
        """The answer, and who is settled for it."""
        answer = FakeAnswer()
        settlement = await paid_request(self.house, FakeAsk(asked or order()), answer)
        return answer, settlement.opened.upstream

    def records(self) -> list[Entry]:
        self.journal.sync()
        return read(self.folder, Position(0, 0), until=self.journal.end, max_records=10_000).records

    def kinds(self) -> list[type]:
        return [type(record) for record in self.records()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    for name in NAMES:
        made.upstream(name)
    yield made
    assert all(not one.running for one in made.upstreams.values())
    assert made.slots.free_count == 4
    made.meter.close()


async def test_the_next_offer_is_tried_and_the_journal_says_so_before_it_is_called(scene: Scene) -> None:
    scene.upstream("first", BROKEN)
    scene.upstream("second", UpstreamError("x", "cannot be reached", retryable=True))
    seen: list[list[type]] = []

    class Watching(ScriptedUpstream):
        def stream(self, *arguments: object):  # type: ignore[override]
            seen.append(scene.kinds())
            return super().stream(*arguments)  # type: ignore[arg-type]

    scene.upstreams["third"] = Watching(words("a", "b"))
    answer, upstream = await scene.ask()
    assert (answer.sent, upstream) == ([b"0:a;", b"0:b;", b"end 12"], "third")
    assert seen == [[Opened, Moved, Moved]]
    opened, moved, last, closed = scene.records()
    assert isinstance(opened, Opened) and isinstance(moved, Moved) and isinstance(last, Moved)
    assert isinstance(closed, Closed) and closed.usage == Usage(10, 0, 2)
    assert (opened.upstream, opened.cost_id) == ("first", 10)
    assert (moved.upstream, moved.cost_id, last.upstream, last.cost_id) == ("second", 11, "third", 12)
    assert (moved.fault, last.fault) == ("server", "server")
    assert last.moves(moved.moves(opened)).tried == (Tried("first", "server"), Tried("second", "server"))
    assert len({record.request_id for record in (opened, moved, last, closed)}) == 1
    assert answer.quote is not None and answer.quote.offer.upstream == "third"


@pytest.mark.parametrize("fault", [Fault.BAD_REQUEST, Fault.CONTENT])
async def test_what_is_the_customers_turn_is_asked_nowhere_else(scene: Scene, fault: Fault) -> None:
    scene.upstream("first", UpstreamError("x", "no", status=400).known_as(fault))
    with pytest.raises(UpstreamError):
        await scene.ask()
    assert scene.kinds() == [Opened, Closed]
    assert scene.upstreams["second"].calls == []


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.BAD_REQUEST, Fault.CONTENT}))
async def test_every_other_fault_is_asked_elsewhere(scene: Scene, fault: Fault) -> None:
    scene.upstream("first", UpstreamError("x", "no").known_as(fault))
    assert (await scene.ask())[1] == "second"


async def test_after_the_first_byte_nothing_is_taken_back(scene: Scene) -> None:
    scene.upstream("first", *words("a", "b")[:1], BROKEN)
    answer, upstream = await scene.ask()
    assert (answer.sent, upstream) == ([b"0:a;", b"failed"], "first")
    assert scene.kinds() == [Opened, Closed]


async def test_an_answer_in_one_piece_is_asked_for_again_when_it_breaks_in_its_middle(scene: Scene) -> None:
    scene.upstream("first", *words("a", "b")[:1], BROKEN)
    answer, upstream = await scene.ask(order(stream=False))
    assert (b"".join(answer.sent), upstream) == (b"0:a;0:b;end 12", "second")


async def test_a_silent_offer_is_left_after_its_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_TOKEN_S", 0.01)
    scene.upstreams["first"] = Silent([])
    scene.upstream("second", Event(usage=Usage(1)), BROKEN)  # said nothing either
    assert (await scene.ask())[1] == "third"


async def test_when_all_fail_the_request_is_closed_once_and_costs_nothing(scene: Scene) -> None:
    for name in NAMES:
        scene.upstream(name, BROKEN)
    with pytest.raises(UpstreamError):
        await scene.ask()
    assert scene.kinds() == [Opened, Moved, Moved, Closed]
    closed = scene.records()[-1]
    assert isinstance(closed, Closed) and (closed.end, closed.usage.total) == (End.UPSTREAM_ERROR, 0)


async def test_a_journal_that_refuses_the_move_calls_nobody(scene: Scene) -> None:
    class Failing(ScriptedUpstream):
        async def stream(self, *arguments: object):  # type: ignore[override]
            scene.journal._fail(0)
            raise BROKEN
            yield Event()

    scene.upstreams["first"] = Failing([])
    with pytest.raises(CallerError) as error:
        await scene.ask()
    assert error.value.code == "journal_failed"
    assert scene.upstreams["second"].calls == []
    scene.slots.free(0)  # what its successor would settle


async def test_a_customer_who_leaves_while_others_are_tried_is_settled(scene: Scene) -> None:
    scene.upstream("first", BROKEN)
    scene.upstreams["second"] = Silent([])
    answer = FakeAnswer()
    task = asyncio.ensure_future(paid_request(scene.house, FakeAsk(order()), answer))
    while not scene.upstreams["second"].running:
        await asyncio.sleep(0)
    answer.gone = True
    task.cancel()
    settlement = await task
    assert (settlement.closed.end, settlement.opened.upstream) == (End.CLIENT_GONE, "second")


async def test_an_offer_that_fails_again_and_again_is_left_out_until_a_probe_succeeds(scene: Scene) -> None:
    first = scene.upstream("first", BROKEN)
    for _ in range(20):
        assert (await scene.ask())[1] == "second"
    assert len(first.calls) == 1, "one that failed stands behind those that work"
    for name in NAMES[1:]:
        scene.upstream(name, BROKEN)
    for _ in range(limits.BREAKER_FAILURES + 2):
        with pytest.raises(UpstreamError):
            await scene.ask()
    assert {scene.house.router.state(one).why for one in scene.teller.snapshot.models["m"].offers} == {"open"}
    for name in NAMES:
        scene.upstream(name)
    clock.advance(2 * NS_PER_S)
    await scene.ask()
    assert "" in {scene.house.router.state(one).why for one in scene.teller.snapshot.models["m"].offers}


async def test_when_all_fail_tries_are_repeated_within_a_budget_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BREAKER_FAILURES", 10**6)
    monkeypatch.setattr("steelyard.routing.health.OfferState._close", lambda *_: None)
    for name in NAMES:
        scene.upstream(name, BROKEN)
    for _ in range(200):
        with pytest.raises(UpstreamError):
            await scene.ask()
    moves = scene.kinds().count(Moved)
    most = limits.RETRIES_BURST + 200 * limits.RETRY_PERCENT // 100
    assert 0 < moves <= most + 2, "the first two found offers that had not failed yet"


async def test_what_is_asked_nowhere_else_leaves_the_budget_to_what_may_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One customer's bad requests take no tries from others, though the other offers have failed lately."""
    monkeypatch.setattr(limits, "BREAKER_FAILURES", 10**6)
    scene.upstream("first", UpstreamError("x", "no", status=400).known_as(Fault.BAD_REQUEST))
    for offer in scene.teller.snapshot.models["m"].offers[1:]:
        scene.house.router.failed(offer, BROKEN, clock.monotonic_ns(), None)
    for _ in range(2 * limits.RETRIES_BURST + 1):
        with pytest.raises(UpstreamError, match="no"):
            await scene.ask()
    scene.upstream("first", BROKEN)
    assert (await scene.ask())[1] == "second"


async def test_an_account_of_no_use_is_left_out_with_all_its_offers_until_it_answers(scene: Scene) -> None:
    scene.upstream("first", UpstreamError("first", "answered 402").known_as(Fault.NO_MONEY))
    await scene.ask()
    router, offer = scene.house.router, scene.teller.snapshot.models["m"].offers[0]
    another = msgspec.structs.replace(offer, id=99)
    assert router.left_out(another, clock.monotonic_ns()) == "no_money"
    clock.advance((limits.DISABLED_S + 1) * NS_PER_S)
    assert router.left_out(another, clock.monotonic_ns()) == ""


@pytest.mark.parametrize(("wait_s", "status"), [(7, 429), (None, 0)])
async def test_a_sole_offer_that_says_how_long_is_left_alone_so_long(
    scene: Scene, wait_s: int | None, status: int
) -> None:
    for name in NAMES[1:]:
        scene.upstream(name, UpstreamError("x", "no", status=429, retry_after_s=60))
    scene.upstream("first", UpstreamError("x", "busy", status=429, retryable=True, retry_after_s=wait_s))
    with pytest.raises(UpstreamError):
        await scene.ask()
    calls = len(scene.upstream("first").calls)
    if status:
        with pytest.raises(CallerError) as error:
            await scene.ask()
        assert (error.value.status, error.value.retry_after_s) == (status, wait_s and wait_s + 1)
        assert scene.upstreams["first"].calls == []
        clock.advance(8 * NS_PER_S)
    assert (await scene.ask())[1] == "first"
    assert len(scene.upstreams["first"].calls) == calls + 1


def test_pauses_grow_and_differ_between_requests() -> None:
    from steelyard.routing.attempts import pause_s

    assert pause_s(ids.next(), 1) == 0
    drawn: Callable[[int], set[float]] = lambda moves: {pause_s(ids.next(), moves) for _ in range(50)}  # noqa: E731
    assert len(drawn(2)) > 10
    assert max(drawn(2)) <= limits.RETRY_PAUSE_MS / 1000 < max(drawn(3))


async def test_who_failed_stands_behind_for_a_while_and_is_asked_again(scene: Scene) -> None:
    scene.upstream("first", BROKEN)
    assert (await scene.ask())[1] == "second"
    scene.upstream("first")
    assert (await scene.ask())[1] == "second"
    clock.advance(6 * limits.ERRORS_HALVE_S * NS_PER_S)  # one error of sixteen calls no longer counts
    assert (await scene.ask())[1] == "first"


async def test_a_breaker_that_has_been_open_long_enough_is_tried_though_others_work(scene: Scene) -> None:
    scene.upstream("first", BROKEN)
    offer = scene.house.teller.snapshot.models["m"].offers[0]
    while scene.house.router.state(offer).why != "open":
        assert (await scene.ask())[1] == "second"
        clock.advance(6 * limits.ERRORS_HALVE_S * NS_PER_S)
    scene.upstream("first")
    assert (await scene.ask())[1] == "first"
    assert scene.house.router.state(offer).why == ""


async def test_an_upstream_whose_key_cannot_be_opened_is_left_for_the_next_and_counted_as_asked_no_more(
    scene: Scene,
) -> None:
    class Locked(dict[str, ScriptedUpstream]):
        def __getitem__(self, name: str) -> ScriptedUpstream:
            if name == "first":
                raise UpstreamError(name, "has a key that cannot be opened").known_as(Fault.AUTH)
            return super().__getitem__(name)

    scene.house = House(scene.teller, scene.meter, Locked(scene.upstreams), clock)
    _, upstream = await scene.ask()
    assert upstream == "second"
    offers = scene.teller.snapshot.models["m"].offers
    assert [scene.house.router.state(offer).in_flight for offer in offers] == [0, 0, 0]
