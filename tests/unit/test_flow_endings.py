"""How a paid request ends: at its cap, with the wallet, on the medium first (strict), and when a side goes away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk
from tests.fakes.parties import PRICE, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, words

from steelyard.flow import House, paid_request
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import CallerError, ClientGone, UpstreamError
from steelyard.kernel.ids import Ids
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order
from steelyard.kernel.settled import Closed, End, Position
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots
from steelyard.rating.bounds import worst_case_nano
from steelyard.rating.rate import charge_of

clock = ManualClock()
ids = Ids(clock)
NUMBERS = [str(place) for place in range(1, 41)]


class Scene:
    """A house whose disk can be held back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "w0-1"
        self.disk = FaultyDisk()
        self.journal = Journal.create(self.folder, segment_bytes=1 << 20, disk=self.disk)
        self.meter = Meter(self.journal, Slots.create(self.folder / "slots", 4), clock, EnergyClocks(folder))
        self.teller = FakeTeller()

    def house(self, upstream: ScriptedUpstream, strict: bool = False) -> House:
        return House(self.teller, self.meter, {"fake": upstream}, clock, strict)

    def on_the_medium(self) -> list[Closed]:
        batch = read(self.folder, Position(), until=self.journal.synced, max_records=100)
        return [record for record in batch.records if isinstance(record, Closed)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.disk.may_sync.set()
    made.meter.close()


def order(**changes: object) -> Order:
    fields = {"request_id": ids.next(), "model": "m", "params": {}, "prompt_tokens_max": 50, "max_tokens": 20}
    return Order(**{**fields, "sequences": 1, "stream": True, **changes})  # type: ignore[arg-type]


def at_length(events: list[Event]) -> list[Event]:
    """The same, ended by the upstream at its cap."""
    return [*events[:-1], Event("", events[-1].usage, "length")]


# --- the cap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("poor", [False, True])
async def test_an_upstream_that_ignores_its_cap_is_cut(scene: Scene, sequences: int, poor: bool) -> None:
    """Never delivered, never charged what is not covered; the end is told as if the upstream had kept to it."""
    if poor:
        scene.teller.purse_nano = worst_case_nano(PRICE, 50, 7, sequences)
    cap = 7 if poor else 20
    upstream = ScriptedUpstream(words(*NUMBERS, prompt=50))
    answer = FakeAnswer()
    ends: list[Event] = []
    answer.render = lambda sequence, event: (ends.append(event), f"{event.text};".encode())[1]  # type: ignore[method-assign]
    settlement = await paid_request(scene.house(upstream), FakeAsk(order(sequences=sequences)), answer)
    assert (upstream.running, upstream.cancelled) == (0, sequences)
    assert settlement.closed.usage == Usage(50 * sequences, 0, cap * sequences)
    assert settlement.closed.end == (End.MONEY_ENDED if poor else End.COMPLETE)
    assert max(int(event.text or 0) for event in ends) == cap
    assert [(event.finish, event.cut) for event in ends if event.finish] == [("length", True)] * sequences
    charge = sum(line.amount_nano for line in charge_of(settlement.closed.usage, PRICE))
    assert charge <= settlement.opened.hold_nano


async def test_the_wallet_ended_an_answer_that_the_upstream_ended_at_the_cap(scene: Scene) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, 7, 1)
    upstream = ScriptedUpstream(at_length(words(*NUMBERS[:7])))
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert settlement.closed.end == End.MONEY_ENDED
    assert len(End.MONEY_ENDED) <= 16


@pytest.mark.parametrize("purse_tokens", [7, 100])
async def test_an_answer_that_ends_by_itself_or_at_the_customers_own_cap_is_complete(
    scene: Scene, purse_tokens: int
) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, purse_tokens, 1)
    script = words(*NUMBERS[:7]) if purse_tokens == 7 else at_length(words(*NUMBERS[:20]))
    settlement = await paid_request(scene.house(ScriptedUpstream(script)), FakeAsk(order()), FakeAnswer())
    assert settlement.closed.end == End.COMPLETE


async def test_a_length_below_the_cap_is_the_contexts_and_not_the_wallets(scene: Scene) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, 7, 1)
    upstream = ScriptedUpstream(at_length(words(*NUMBERS[:3])))
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert settlement.closed.end == End.COMPLETE


async def test_a_prompt_whose_answer_is_cut_before_its_first_token_is_still_paid(scene: Scene) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, 7, 1)
    upstream = ScriptedUpstream([Event("much", Usage(10, 0, 11))])
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert (settlement.closed.end, settlement.closed.usage) == (End.MONEY_ENDED, Usage(10, 0, 0))


async def test_a_whole_answer_in_one_piece_cannot_be_cut_and_is_told_as_it_is(scene: Scene) -> None:
    """Usage above the cap: what its charge has above the hold is booked as overrun (ledger tests)."""
    upstream = ScriptedUpstream([Event("much", Usage(50, 0, 35), "length")])
    answer = FakeAnswer()
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), answer)
    assert answer.sent[0] == b"0:much;"
    assert settlement.closed.usage == Usage(50, 0, 35)
    charge = sum(line.amount_nano for line in charge_of(settlement.closed.usage, PRICE))
    assert charge > settlement.opened.hold_nano


async def test_closing_counts_above_the_cap_keep_the_finish_of_the_upstream(scene: Scene) -> None:
    upstream = ScriptedUpstream([*words(*NUMBERS[:5])[:-1], Event("", Usage(10, 0, 22), "stop")])
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert (settlement.closed.usage.output, settlement.closed.end) == (22, End.COMPLETE)
    assert (upstream.running, upstream.cancelled) == (0, 0)


# --- strict durability ------------------------------------------------------------------------------------------------


async def test_strict_the_last_bytes_wait_until_the_close_is_on_the_medium(scene: Scene) -> None:
    answer = FakeAnswer()
    house = scene.house(ScriptedUpstream(words("a", "b")), strict=True)
    scene.disk.may_sync.clear()
    running = asyncio.ensure_future(paid_request(house, FakeAsk(order()), answer))
    done, _ = await asyncio.wait([running], timeout=0.05)
    assert not done
    assert answer.sent == [b"0:a;", b"0:b;", b"end 1"], "all but the last byte, and all of it counted"
    assert scene.teller.closings == 1
    assert scene.on_the_medium() == []
    scene.disk.may_sync.set()
    settlement = await asyncio.wait_for(running, 20)
    assert answer.sent[-1] == b"2"
    assert scene.on_the_medium() == [settlement.closed]
    assert settlement.closed.usage == Usage(10, 0, 2)


async def test_strict_a_failing_disk_ends_the_connection_and_never_gives_the_end(scene: Scene) -> None:
    answer = FakeAnswer()
    house = scene.house(ScriptedUpstream(words("a", "b")), strict=True)
    scene.disk.may_sync.clear()
    scene.disk.sync_fails = True
    running = asyncio.ensure_future(paid_request(house, FakeAsk(order()), answer))
    await asyncio.wait([running], timeout=0.05)
    scene.disk.may_sync.set()
    with pytest.raises(CallerError) as caught:
        await asyncio.wait_for(running, 20)
    assert (caught.value.status, caught.value.code) == (503, "journal_failed")
    assert answer.sent[-1] == b"end 1"


async def test_strict_a_close_that_could_not_be_written_gives_no_end_either(scene: Scene) -> None:
    class Full(FakeAnswer):
        async def send(self, piece: bytes) -> None:
            await super().send(piece)
            scene.disk.bytes_left = 0

    answer = Full()
    with pytest.raises(CallerError):
        await paid_request(scene.house(ScriptedUpstream(words("a")), strict=True), FakeAsk(order()), answer)
    assert answer.sent[-1] == b"end 1"


async def test_strict_a_customer_who_leaves_in_the_wait_has_a_whole_answer_on_record(scene: Scene) -> None:
    """What an Idempotency-Key keeps is whole; who is gone cannot tell that it was early."""

    class Leaving(FakeAnswer):
        async def send(self, piece: bytes) -> None:
            await super().send(piece)
            if self.gone:
                raise ClientGone("gone")

    answer = Leaving()
    scene.disk.may_sync.clear()
    house = scene.house(ScriptedUpstream(words("a")), strict=True)
    running = asyncio.ensure_future(paid_request(house, FakeAsk(order()), answer))
    await asyncio.wait([running], timeout=0.05)
    answer.gone = True
    running.cancel()
    settlement = await running
    assert settlement.closed.end == End.COMPLETE
    assert b"".join(answer.sent[-2:]) == b"end 11"


async def test_strict_a_stop_of_the_platform_in_the_wait_is_passed_on(scene: Scene) -> None:
    scene.disk.may_sync.clear()
    house = scene.house(ScriptedUpstream(words("a")), strict=True)
    running = asyncio.ensure_future(paid_request(house, FakeAsk(order()), FakeAnswer()))
    await asyncio.wait([running], timeout=0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_normal_durability_waits_for_nothing(scene: Scene) -> None:
    answer = FakeAnswer()
    scene.disk.may_sync.clear()
    await asyncio.wait_for(paid_request(scene.house(ScriptedUpstream(words("a"))), FakeAsk(order()), answer), 20)
    assert answer.sent[-1] == b"end 11"


# --- a side goes away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "output", "prompt"),
    [
        pytest.param(0, 0, 0, id="before the first byte"),
        pytest.param(2, 2, 10, id="in mid-stream"),
        pytest.param(3, 3, 10, id="before the usage chunk"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
async def test_a_client_who_goes_is_charged_what_had_left(
    scene: Scene, pieces: int, output: int, prompt: int, strict: bool
) -> None:
    upstream = ScriptedUpstream(words("a", "b", "c"))
    settlement = await paid_request(scene.house(upstream, strict), FakeAsk(order()), FakeAnswer(pieces=pieces))
    assert settlement.closed.end == End.CLIENT_GONE
    assert settlement.closed.usage == Usage(prompt, 0, output)
    assert upstream.running == 0


async def test_an_upstream_that_is_cut_off_in_mid_stream_is_charged_what_had_left_and_told(scene: Scene) -> None:
    upstream = ScriptedUpstream([*words("a", "b")[:2], UpstreamError("fake", "closed the connection")])
    answer = FakeAnswer()
    settlement = await paid_request(scene.house(upstream, strict=True), FakeAsk(order()), answer)
    assert (settlement.closed.end, settlement.closed.usage) == (End.UPSTREAM_ERROR, Usage(10, 0, 2))
    assert answer.sent[-1] == b"failed"


# --- reasoning, and who counted -----------------------------------------------------------------------------------


async def test_reasoning_counts_against_the_cap(scene: Scene) -> None:
    script = [Event("hm", Usage(50, 0, 0, reasoning=15)), Event("so", Usage(50, 0, 6, reasoning=15))]
    upstream = ScriptedUpstream(
        [*script, Event("x", Usage(50, 0, 9, reasoning=15)), Event("", script[-1].usage, "stop")]
    )
    settlement = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert settlement.closed.usage == Usage(50, 0, 0, reasoning=15)
    assert upstream.cancelled == 1


@pytest.mark.parametrize(
    ("flags", "pieces", "estimated"), [((1, 1, 0), None, False), ((1, 1, 1), None, True), ((1, 1, 0), 2, True)]
)
async def test_the_close_says_whether_the_counts_are_ours(
    scene: Scene, flags: tuple[int, ...], pieces: int | None, estimated: bool
) -> None:
    """By what was delivered last: a count that comes at the end mends what was estimated before."""
    script: list[Event | Exception] = [
        Event("a" * (place < 3), Usage(10, 0, place), "stop" if place == 3 else None, estimated=bool(flag))
        for place, flag in enumerate(flags, 1)
    ]
    settlement = await paid_request(scene.house(ScriptedUpstream(script)), FakeAsk(order()), FakeAnswer(pieces))
    assert settlement.closed.estimated is estimated
