"""What an offer costs us is known before it is used: its own tariff, its upstream's, the rate, or a refusal."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.fakes.parties import COST, OFFER, FakeAnswer, FakeAsk, ScriptedUpstream, snapshot, words
from tests.unit.test_flow import Scene, clock, order

from steelyard.flow import House, paid_request
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.money import NANO_PER_UNIT
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.records import Event
from steelyard.kernel.settled import Closed, End, Moved, Opened, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine

FREE = tuple(TariffLine(meter, "0", 0, 1) for meter in (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT))
ALL_OF_IT = Tariff(11, "fake", "CNY", 0, FREE)
OWN = Tariff(12, "fake", "CNY", 0, FREE, model="m-there")
OTHERS = Tariff(13, "fake", "CNY", 0, FREE, model="m")  # our name of it, which is another model there
ABROAD = Tariff(14, "fake", "USD", 0, FREE, model="m-there")
RATE = Tariff(15, "USD", "CNY", 0, (TariffLine(Meter.MONEY, "7", 7 * 10**12, NANO_PER_UNIT),))
MODEL = Model(1, "m", 0, 100, (replace(OFFER, upstream_model="m-there"),))
LATER_NS = 1 << 62


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.meter.close()


async def asked(scene: Scene, costs: tuple[Tariff, ...], rates: tuple[Tariff, ...] = ()) -> Settlement:
    scene.teller.snapshot = snapshot(models={"m": MODEL}, costs={"fake": costs}, rates={"USD": rates})
    return await paid_request(scene.house(ScriptedUpstream(words("a", "b"))), FakeAsk(order()), FakeAnswer())


@pytest.mark.parametrize(
    ("costs", "counts"),
    [
        ((ALL_OF_IT, OWN, OTHERS), 12),
        ((ALL_OF_IT, OTHERS), 11),
        ((ALL_OF_IT, replace(OWN, effective_from_ns=LATER_NS)), 11),
        ((COST, OWN), 12),
        ((COST, OTHERS), 2),
        ((ABROAD,), 14),
    ],
)
async def test_the_cost_of_an_offer_is_its_own_or_its_upstreams(
    scene: Scene, costs: tuple[Tariff, ...], counts: int
) -> None:
    opened = (await asked(scene, costs, (RATE,))).opened
    assert (opened.cost_id, opened.rate_id) == (counts, 15 if counts == 14 else 0)
    assert scene.records()[0] == opened


@pytest.mark.parametrize(
    ("costs", "rates", "says"),
    [
        ((), (), "[[cost]]"),
        ((OTHERS,), (), "[[cost]]"),
        ((replace(OWN, lines=FREE[:2]),), (), "[[cost]]"),
        ((replace(COST, lines=COST.lines[:1]),), (), "[[cost]]"),
        ((ABROAD,), (), "[[rate]] from USD to CNY"),
        ((ABROAD,), (replace(RATE, effective_from_ns=LATER_NS),), "[[rate]] from USD to CNY"),
        ((ABROAD,), (replace(RATE, currency="EUR"),), "[[rate]] from USD to CNY"),
        ((replace(COST, currency="USD"),), (RATE,), "[[rate]] from USD to CNY"),
    ],
)
async def test_what_nobody_priced_is_not_used(
    scene: Scene, costs: tuple[Tariff, ...], rates: tuple[Tariff, ...], says: str
) -> None:
    with pytest.raises(CallerError) as refused:
        await asked(scene, costs, rates)
    assert (refused.value.status, refused.value.code) == (503, "price_missing")
    assert says in refused.value.message
    assert (scene.records(), scene.teller.holds) == ([], {})


async def test_what_a_vendor_said_is_on_record_though_it_did_not_reach_the_customer(scene: Scene) -> None:
    scene.teller.snapshot = snapshot(models={"m": MODEL}, costs={"fake": (OWN,)})
    upstream = ScriptedUpstream(words("a", "b", "c"))
    cut = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer(pieces=1))
    assert (cut.closed.end, cut.closed.usage, cut.closed.heard) == (End.CLIENT_GONE, Usage(10, 0, 1), Usage(10, 0, 2))
    none = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer(pieces=0))
    assert (none.closed.usage, none.closed.billed) == (Usage(), Usage(10, 0, 1))
    broken = ScriptedUpstream([words("a")[0], UpstreamError("fake", "gone")])
    ended = await paid_request(scene.house(broken), FakeAsk(order()), FakeAnswer())
    assert (ended.closed.end, ended.closed.usage, ended.closed.heard) == (End.UPSTREAM_ERROR, Usage(10, 0, 1), None)
    whole = await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())
    assert (whole.closed.usage, whole.closed.heard) == (Usage(10, 0, 3), None)
    kept = [record for record in scene.records() if isinstance(record, Closed)]
    assert [one.heard for one in kept] == [Usage(10, 0, 2), Usage(10, 0, 1), None, None]
    assert isinstance(scene.records()[0], Opened)


async def test_another_offer_that_is_priced_is_used_instead(scene: Scene) -> None:
    other = replace(OFFER, id=2, upstream_model="elsewhere")
    scene.teller.snapshot = snapshot(
        models={"m": replace(MODEL, offers=(replace(MODEL.offers[0], upstream="unpriced"), other))},
        costs={"fake": (replace(OWN, model="elsewhere"),)},
    )
    upstream = ScriptedUpstream(words("a"))
    assert (await paid_request(scene.house(upstream), FakeAsk(order()), FakeAnswer())).opened.cost_id == 12


async def test_a_vendor_abroad_that_is_moved_to_brings_his_rate(scene: Scene) -> None:
    """What the first one said is his affair; the second's cost is turned over at the rate."""
    first, second = MODEL.offers[0], replace(MODEL.offers[0], id=2, upstream="abroad")
    scene.teller.snapshot = snapshot(
        models={"m": replace(MODEL, offers=(first, second))},
        costs={"fake": (OWN,), "abroad": (replace(ABROAD, subject="abroad"),)},
        rates={"USD": (RATE,)},
    )
    fails = ScriptedUpstream([UpstreamError("fake", "busy", status=503, retryable=True)])
    speaks = ScriptedUpstream(words("a", "b"))
    house = House(scene.teller, scene.meter, {"fake": fails, "abroad": speaks}, clock)
    served = await paid_request(house, FakeAsk(order()), FakeAnswer(pieces=1))
    assert (served.opened.upstream, served.opened.cost_id, served.opened.rate_id) == ("abroad", 14, 15)
    opened, moved, closed = scene.records()
    assert isinstance(opened, Opened) and isinstance(moved, Moved) and isinstance(closed, Closed)
    assert (opened.rate_id, moved.moves(opened)) == (0, served.opened)
    assert closed.heard == Usage(10, 0, 2)


class Cancelled(ScriptedUpstream):
    """The worker is told that the customer has gone while this one still speaks."""

    async def stream(self, *asked: Any) -> AsyncIterator[Event]:
        async for event in super().stream(*asked):
            yield event
        raise asyncio.CancelledError


async def test_what_was_heard_before_anything_is_passed_on_is_kept(scene: Scene) -> None:
    """An answer in one piece is waited for whole, and its customer may hang up meanwhile."""
    model = replace(MODEL, offers=(*MODEL.offers, replace(MODEL.offers[0], id=2)))
    scene.teller.snapshot = snapshot(models={"m": model}, costs={"fake": (OWN,)})
    upstream, answer = Cancelled(words("a", "b")), FakeAnswer()
    answer.gone = True
    cut = await paid_request(scene.house(upstream), FakeAsk(order(stream=False)), answer)
    assert (cut.closed.end, cut.closed.usage, cut.closed.billed) == (End.CLIENT_GONE, Usage(), Usage(10, 0, 2))
