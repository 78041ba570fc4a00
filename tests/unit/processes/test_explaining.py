"""How a worker would route a request: the way of a paid one up to the call, without a trace of it."""

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
    FakeTeller,
    ScriptedUpstream,
    snapshot,
)

from steelyard.flow import House, paid_request
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order
from steelyard.kernel.routes import Policy, Route, Routes, RouteScope
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.processes.explaining import Explaining

clock = ManualClock()
ids = Ids(clock)
NAMES = ("dear", "cheap", "unpriced")
LONG = "Name the rivers of Asia. " * 200


def vendor_cost(place: int, name: str, pico: int, from_ns: int = 0) -> Tariff:
    lines = tuple(TariffLine(meter, "x", pico, 1) for meter in (M.INPUT, M.CACHED_INPUT, M.OUTPUT))
    return Tariff(10 + place, name, "CNY", from_ns, lines, model="m")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Three offers of one model; the second costs a third of the first, the third nobody knows what."""
    replace = msgspec.structs.replace
    journal, slots = Journal.create(tmp_path / "w0-1", segment_bytes=1 << 20), Slots.create(tmp_path / "slots", 4)
    meter = Meter(journal, slots, clock, EnergyClocks(tmp_path))
    offers = tuple(replace(OFFER, id=place, upstream=name) for place, name in enumerate(NAMES, 1))
    costs = {"dear": (vendor_cost(0, "dear", 300_000),), "cheap": (vendor_cost(1, "cheap", 100_000),)}
    rule = Route(RouteScope.KEY, "1", policy=Policy.PINNED, pinned=("dear",))
    models = {"m": Model(1, "m", 0, 100, offers), "alone": Model(2, "alone", 0, 100, (replace(OFFER, model="alone"),))}
    prices = {"m": (PRICE,), "alone": (replace(PRICE, id=3, subject="alone"),)}
    routes = Routes(keys={1: rule}, aliases={"other": "m"})
    known = snapshot(models=models, costs=costs | {"fake": (COST,)}, prices=prices, routes=routes)
    script = [Event("a", Usage(100, 0, 9), "stop")]
    yield House(FakeTeller(snapshot_=known), meter, {name: ScriptedUpstream(script) for name in NAMES}, clock)
    meter.close()


def places(told: dict[str, object]) -> list[tuple[str, int, str]]:
    return [(one["upstream"], one["rank"], one["left_out"]) for one in told["offers"]]  # type: ignore[attr-defined]


def test_the_winner_is_named_with_what_decided_and_who_was_left_out(house: House) -> None:
    told = Explaining(house)({"model": "m"})
    assert (told["winner"], told["reason"], told["policy"], told["decided_by"]) == (
        "cheap",
        "cost",
        "balanced",
        "default",
    )
    assert places(told) == [("cheap", 1, ""), ("dear", 2, ""), ("unpriced", 0, "not_sold")]
    first = told["offers"][0]
    assert 0 < first["cost_nano"] < told["price_nano"]
    assert {"score", "first_token_p95_ms", "token_p95_us", "breaker", "affinity", "strain", "weight"} <= first.keys()


def test_an_alias_and_a_keys_rule_count(house: House) -> None:
    told = Explaining(house)({"model": "other", "key": 1})
    assert (told["model"], told["winner"], told["reason"]) == ("m", "dear", "only")
    assert ("cheap", 0, "not_sold") in places(told)


def test_a_single_offer_is_the_only_one(house: House) -> None:
    told = Explaining(house)({"model": "alone"})
    assert (told["winner"], told["reason"], told["expected"]) == ("fake", "only", None)
    assert places(told) == [("fake", 1, "")]


def test_prices_of_another_moment_can_be_asked_for(house: House) -> None:
    costs = house.teller.snapshot.costs
    costs["cheap"] = (vendor_cost(2, "cheap", 900_000, from_ns=clock.now_ns() + NS_PER_S), *costs["cheap"])
    assert Explaining(house)({"model": "m"})["winner"] == "cheap"
    assert Explaining(house)({"model": "m", "at_ns": clock.now_ns() + 2 * NS_PER_S})["winner"] == "dear"


async def test_it_knows_what_the_worker_knows_and_leaves_no_trace(house: House) -> None:
    params = {"messages": msgspec.Raw(msgspec.json.encode([{"role": "user", "content": LONG}]))}
    order = Order(ids.next(), "m", params, 5000, 20, 1, stream=True)
    ask = FakeAsk(order, f"Bearer {KEY}")
    ask.caller = msgspec.structs.replace(CALLER, key_id=2)  # without a rule
    await paid_request(house, ask, FakeAnswer())
    explain = Explaining(house)
    once, again = (explain({"model": "m", "prompt": LONG}) for _ in range(2))
    assert once == again
    held = {one["upstream"]: one.get("affinity") for one in once["offers"]}
    assert held["cheap"] >= 700
    assert held["dear"] == 0
    assert house.router.why(b"route explain".ljust(16, b"\0")) is None
    assert not house.router.affinity.prompts
    assert house.meter._in_flight == 0


@pytest.mark.parametrize(
    ("payload", "param"), [({"model": "nobody"}, "model"), ({"model": "m", "key": 77}, "key"), ({"prompt": 1}, None)]
)
def test_what_cannot_be_explained_is_refused(house: House, payload: dict[str, object], param: str | None) -> None:
    with pytest.raises(CallerError) as caught:
        Explaining(house)(payload)
    assert caught.value.param == param


def test_a_request_that_would_be_refused_says_so(house: House) -> None:
    for offer in house.teller.snapshot.models["m"].offers[:2]:
        house.router.state(offer).why = "rate_limited"
        house.router.state(offer).told = True
        house.router.state(offer)._back_ns = clock.monotonic_ns() + 5 * NS_PER_S
    told = Explaining(house)({"model": "m"})
    assert (told["winner"], told["reason"]) == ("", "")
    assert told["refused"].startswith("overloaded: ")
    assert [one[2] for one in places(told)] == ["rate_limited", "rate_limited", "not_sold"]
    assert CALLER.key_id == 1
