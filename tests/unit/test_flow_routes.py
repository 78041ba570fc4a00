"""The conductor by the rules of operators and customers: policies, pins, guards, bounds, aliases, fallbacks."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.parties import OFFER, PRICE, FakeAnswer, FakeAsk, FakeTeller, ScriptedUpstream, snapshot, words

from steelyard.flow import House, paid_request
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.records import Order
from steelyard.kernel.routes import Guard, Policy, Route, Routes, RouteScope
from steelyard.kernel.settled import Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.kernel.why import reason, why_from_bytes
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.rating.bounds import worst_case_nano

clock = ManualClock()
ids = Ids(clock)
replace = msgspec.structs.replace
BROKEN = UpstreamError("x", "it broke", status=500, retryable=True)


def order(**changes: object) -> Order:
    fields = {"request_id": ids.next(), "model": "m", "params": {}, "prompt_tokens_max": 50, "max_tokens": 20}
    return Order(**{**fields, "sequences": 1, "stream": True, **changes})  # type: ignore[arg-type]


def vendor_cost(number: int, upstream: str, micro: int) -> Tariff:
    """`micro` millionths a token in, cached and out; a version of its own, as versions are never edited."""
    lines = tuple(TariffLine(meter, "x", 10**6 * micro, 1) for meter in (M.INPUT, M.CACHED_INPUT, M.OUTPUT))
    return Tariff(number, upstream, "CNY", 0, lines, model="m")


class Scene:
    """The model `m` at `dear` and `cheap`, the model `other` at `spare`; `m` is sold at 2 and 10 millionths a token."""

    def __init__(self, folder: Path) -> None:
        meter = Meter(
            Journal.create(folder / "w0-1", segment_bytes=1 << 20),
            Slots.create(folder / "slots", 4),
            clock,
            EnergyClocks(folder),
        )
        names = ("dear", "cheap", "spare")
        self.offers = {
            name: replace(OFFER, id=place, upstream=name, model="other" if name == "spare" else "m")
            for place, name in enumerate(names, 1)
        }
        self.costs = {"dear": 3, "cheap": 1, "spare": 1}
        self.routes = Routes()
        self.upstreams = {name: ScriptedUpstream(words("a", "b")) for name in names}
        self.teller = FakeTeller()
        self.house = House(self.teller, meter, self.upstreams, clock)
        self.meter = meter

    def rule(self, **changes: object) -> None:
        """The rule of the model `m`."""
        made = Route(RouteScope.MODEL, "m", **changes)  # type: ignore[arg-type]
        self.routes = replace(self.routes, models={"m": made})

    def key_rule(self, **changes: object) -> None:
        self.routes = replace(self.routes, keys={1: Route(RouteScope.KEY, "1", **changes)})  # type: ignore[arg-type]

    def bound(self, name: str, **changes: int) -> None:
        self.offers[name] = replace(self.offers[name], **changes)

    async def ask(self, asked: Order | None = None) -> tuple[Settlement, FakeAnswer]:
        of = {name: tuple(one for one in self.offers.values() if one.model == name) for name in ("m", "other")}
        dearer = tuple(replace(line, pico=line.pico * 5) for line in PRICE.lines)
        self.teller.snapshot = snapshot(
            models={name: Model(place, name, 0, 100, offers) for place, (name, offers) in enumerate(of.items(), 1)},
            prices={"m": (PRICE,), "other": (replace(PRICE, id=9, subject="other", lines=dearer),)},
            costs={
                name: (vendor_cost(100 * micro + place, name, micro),)
                for place, (name, micro) in enumerate(self.costs.items())
            },
            routes=self.routes,
        )
        answer = FakeAnswer()
        return await paid_request(self.house, FakeAsk(asked or order()), answer), answer

    async def served(self, asked: Order | None = None) -> str:
        return (await self.ask(asked))[0].opened.upstream

    async def refused(self) -> str:
        held = dict(self.teller.holds)
        with pytest.raises(CallerError) as error:
            await self.ask()
        assert self.teller.holds == held, "what was held for it is given back"
        return error.value.code


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.meter.close()


async def test_the_cheaper_offer_is_asked_first(scene: Scene) -> None:
    for policy in (None, Policy.CHEAPEST, Policy.BALANCED):
        scene.rule(policy=policy)
        assert await scene.served() == "cheap"


async def test_the_faster_one_where_that_counts(scene: Scene) -> None:
    scene.rule(policy=Policy.FASTEST)
    now_ns = clock.monotonic_ns()
    for name, first_ms in (("dear", 100), ("cheap", 900)):
        scene.house.router.state(scene.offers[name]).first.note(first_ms * 10**6, now_ns)
    assert await scene.served() == "dear"
    scene.key_rule(policy=Policy.CHEAPEST)
    assert await scene.served() == "cheap", "the key's rule goes before the model's"


async def test_a_weight_turns_the_order_round(scene: Scene) -> None:
    scene.rule(policy=Policy.CHEAPEST)
    scene.bound("dear", weight=400)
    assert await scene.served() == "dear"


async def test_a_pin_is_kept_in_its_order_and_lets_nobody_else_serve(scene: Scene) -> None:
    scene.rule(policy=Policy.PINNED, pinned=("dear",))
    assert await scene.served() == "dear"
    scene.upstreams["dear"].script = [BROKEN]
    with pytest.raises(UpstreamError):
        await scene.ask()
    scene.rule(policy=Policy.PINNED, pinned=("dear", "cheap"))
    assert await scene.served() == "cheap"
    assert len(scene.upstreams["dear"].calls) == 2, "it failed, so it stands behind"
    scene.rule(policy=Policy.PINNED, pinned=("elsewhere",))
    assert await scene.refused() == "model_unavailable"


async def test_the_guard_refuses_reroutes_or_flags_what_would_lose(scene: Scene) -> None:
    scene.costs["dear"] = scene.costs["cheap"] = 30
    for guard in (None, Guard.OFF, Guard.REROUTE):
        scene.rule(guard=guard)
        await scene.served()
    flagged = scene.house.router.flagged
    scene.rule(guard=Guard.FLAG)
    asked = order()
    await scene.served(asked)
    assert scene.house.router.flagged == flagged + 1
    why = scene.house.router.why(asked.request_id)
    assert why is not None and why.considered[0].margin_nano is not None and why.considered[0].margin_nano < 0
    scene.rule(guard=Guard.REFUSE)
    assert await scene.refused() == "margin_refused"
    scene.costs["cheap"] = 1
    assert await scene.served() == "cheap"
    scene.rule(guard=Guard.REROUTE, policy=Policy.FASTEST)
    slow = scene.house.router.state(scene.offers["cheap"]).first
    slow.p50 = 10**10  # so that nothing but the margin speaks for it
    assert await scene.served() == "cheap"
    scene.upstreams["cheap"].script = [BROKEN]
    assert await scene.served() == "dear", "rerouting serves at a loss before it serves not at all"


@pytest.mark.parametrize(("bound", "reason"), [({"rpm": 6}, "rpm"), ({"tpm": 700}, "tpm")])
async def test_an_offer_at_its_bounds_is_left_out_until_it_may_be_asked_again(
    scene: Scene, bound: dict[str, int], reason: str
) -> None:
    scene.bound("cheap", **bound)
    assert [await scene.served() for _ in range(3)] == ["cheap", "dear", "dear"]
    asked = order()
    await scene.served(asked)
    why = scene.house.router.why(asked.request_id)
    assert why is not None and [one.left_out for one in why.considered] == ["", reason]
    clock.advance(10 * NS_PER_S)
    assert await scene.served() == "cheap"
    scene.bound("dear", **bound)
    assert await scene.served() == "dear"
    assert await scene.refused() == "overloaded"


async def test_no_more_calls_at_once_than_an_offer_may_have(scene: Scene) -> None:
    scene.bound("cheap", concurrency=1)
    seen: list[str] = []

    class Nested(ScriptedUpstream):
        async def stream(self, *arguments: object):  # type: ignore[override]
            seen.append(await scene.served())
            async for event in super().stream(*arguments):  # type: ignore[arg-type]
                yield event

    scene.upstreams["cheap"] = Nested(words("a"))
    assert await scene.served() == "cheap"
    assert seen == ["dear"]


async def test_an_operator_has_an_upstream_asked_again(scene: Scene) -> None:
    scene.upstreams["cheap"].script = [UpstreamError("cheap", "answered 401").known_as(Fault.AUTH)]
    assert [await scene.served() for _ in range(2)] == ["dear", "dear"]
    assert len(scene.upstreams["cheap"].calls) == 1
    scene.upstreams["cheap"].script = words("a")
    scene.routes = replace(scene.routes, upstreams={"cheap": 1})
    assert await scene.served() == "cheap"


async def test_an_alias_is_the_model_by_another_name(scene: Scene) -> None:
    scene.routes = replace(scene.routes, aliases={"gpt": "m"})
    settlement, answer = await scene.ask(order(model="gpt"))
    assert (settlement.opened.model, settlement.opened.price_id) == ("m", PRICE.id)
    assert answer.quote is not None and answer.quote.model == "m"


async def test_another_model_answers_at_its_own_price_when_the_customer_allows_it(scene: Scene) -> None:
    scene.upstreams["dear"].script = scene.upstreams["cheap"].script = [BROKEN]
    with pytest.raises(UpstreamError):
        await scene.ask()
    asked = order(fallbacks=("other",))
    settlement, answer = await scene.ask(asked)
    opened = settlement.opened
    assert (opened.model, opened.upstream, opened.price_id) == ("other", "spare", 9)
    assert answer.quote is not None and answer.quote.price.id == 9
    dearest = scene.teller.snapshot.prices["other"][0]
    assert opened.hold_nano == worst_case_nano(dearest, 50, 20, 1), "the hold covers the dearest"
    scene.key_rule(fallbacks=("other",))
    assert await scene.served() == "spare", "a key may allow it for all its requests"
    with pytest.raises(CallerError) as error:
        await scene.ask(order(fallbacks=("nobody",)))
    assert error.value.code == "model_not_found"


async def test_a_wallet_that_covers_the_model_alone_is_served_without_the_fallback(scene: Scene) -> None:
    scene.teller.purse_nano = worst_case_nano(PRICE, 50, 20, 1)
    settlement, answer = await scene.ask(order(fallbacks=("other",)))
    assert settlement.opened.hold_nano == scene.teller.purse_nano
    assert answer.quote is not None and (answer.quote.max_tokens, answer.quote.lowered) == (20, False)


async def test_a_fallback_without_a_price_or_a_cost_is_no_fallback(scene: Scene) -> None:
    scene.upstreams["dear"].script = scene.upstreams["cheap"].script = [BROKEN]
    del scene.costs["spare"]
    with pytest.raises(UpstreamError):
        await scene.ask(order(fallbacks=("other",)))


async def test_why_an_offer_won_is_told_while_it_is_remembered(scene: Scene) -> None:
    asked = order()
    opened = (await scene.ask(asked))[0].opened
    short = why_from_bytes(opened.why)
    assert (opened.upstream, short.policy, reason(short)) == ("cheap", "balanced", "cost")
    assert [(one.offer_id, one.rank) for one in short.offers] == [(2, 1), (1, 2)]
    why = scene.house.router.why(asked.request_id)
    assert why is not None
    assert [(one.upstream, one.rank, one.cost_nano > 0) for one in why.considered] == [
        ("cheap", 1, True),
        ("dear", 2, True),
    ]
    assert (why.policy, why.decided_by, why.currency) == ("balanced", "default", "CNY")
    assert why.considered[1].cost_nano == 3 * why.considered[0].cost_nano
    assert scene.house.router.why(ids.next()) is None
