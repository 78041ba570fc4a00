"""What is kept of the costs in force is what would be found anew, at every moment and for every order."""

import random

import msgspec
from tests.fakes.parties import OFFER, snapshot

from steelyard.catalog.costed import Costs
from steelyard.catalog.tariffs import costed
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.records import Order
from steelyard.kernel.tariff import Condition, Tariff, TariffLine, Variant

LINES = tuple(TariffLine(meter, "1", 1_000_000, 1) for meter in (M.INPUT, M.CACHED_INPUT, M.OUTPUT))


def order(thinking: bool) -> Order:
    params = {"thinking": msgspec.Raw(b'{"type":"enabled"}' if thinking else b'{"type":"disabled"}')}
    return Order(bytes(16), "m", params, 10, 10, 1, True)


def test_it_is_the_same_at_every_change_of_tariffs_rates_and_snapshots() -> None:
    dice = random.Random(5)
    offers = tuple(msgspec.structs.replace(OFFER, id=n, upstream=f"u{n}") for n in range(3))
    model = Model(1, "m", 0, 10, offers)
    when = (Variant("thinking", Condition(thinking=True), LINES),)
    costs, number = {}, 0
    for one in offers:
        versions = []
        for _ in range(4):
            number += 1
            currency, variants = dice.choice(("CNY", "USD")), dice.choice(((), when))
            at_ns = dice.randrange(1000)
            versions.append(Tariff(number, one.upstream, currency, at_ns, LINES, model="m", variants=variants))
        costs[one.upstream] = (Tariff(100 + one.id, one.upstream, "CNY", -1, LINES, model="m"), *versions)
    line = (TariffLine(M.MONEY, "7", 7 * 10**12, 10**9),)
    rates = {"USD": tuple(Tariff(200 + n, "USD", "CNY", at, line) for n, at in enumerate((-1, 300, 600)))}
    seen, known = set(), Costs()
    for part in (snapshot(costs=costs, rates=rates), snapshot(costs=dict(list(costs.items())[:2]), rates=rates)):
        for at_ns in range(0, 1100, 7):
            asked = order(dice.random() < 0.5)
            found = known.of(part, model, asked, at_ns, "CNY", lambda model, capability: model.offers)
            assert found == costed(part, offers, asked, at_ns, "CNY")
            seen.add(tuple((one.cost.id, one.cost.met) for one in found))
    assert len(seen) > 10


def test_a_model_that_somebody_was_sold_before_the_snapshot_changed_is_nobody_elses() -> None:
    """Who waits for his hold has the model of then and the snapshot of now: its engine has been started elsewhere."""
    gone, here = (Model(1, "m", 0, 10, (msgspec.structs.replace(OFFER, address=at),)) for at in ("h:1", "h:2"))
    known, now = Costs(), snapshot(costs={OFFER.upstream: (Tariff(1, OFFER.upstream, "CNY", -1, LINES, model="m"),)})
    for model in (gone, here, gone, here):
        [found] = known.of(now, model, order(False), 0, "CNY", lambda model, capability: model.offers)
        assert found.offer.address == model.offers[0].address
