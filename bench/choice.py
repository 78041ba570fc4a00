"""How long a choice takes: `python -m bench.choice [OFFERS]`. Prints µs of CPU per decision, the best of many."""

import sys
import time

import msgspec

from steelyard.catalog.costed import Costs
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, CallersKept, Granted, Order, Quote, Snapshot, Terms
from steelyard.kernel.routes import Guard, Policy, Route, Routes, RouteScope
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.estimate import Estimator
from steelyard.routing.choose import choose
from steelyard.routing.router import Router
from steelyard.routing.rules import Wanted

ROUNDS, EACH = 200, 50


def lines(pico: int) -> tuple[TariffLine, ...]:
    return tuple(TariffLine(meter, "x", pico, 1_000_000) for meter in (M.INPUT, M.CACHED_INPUT, M.OUTPUT))


def measured(offers_count: int, guard: Guard, turns: int) -> tuple[float, float]:
    """µs for finding the cost tariffs and for the choice."""
    offers = tuple(Offer(n, "m", f"v{n}", "h:1", "m", 100_000, 8_000) for n in range(offers_count))
    model, price = Model(1, "m", 0, 512, offers), Tariff(1, "m", "CNY", 0, lines(9_000_000))
    cost = {
        one.upstream: Tariff(10 + one.id, one.upstream, "CNY", 0, lines(10**6 + one.id), model="m") for one in offers
    }
    costs: dict[str, tuple[Tariff, ...]] = {name: (tariff,) for name, tariff in cost.items()}
    routes = Routes(models={"m": Route(RouteScope.MODEL, "m", Policy.BALANCED, (), guard)})
    snapshot = Snapshot(1, CallersKept(), frozenset(), {"m": model}, {"m": (price,)}, costs, routes=routes)
    caller, terms = Caller(1, 1, 1, "t", "p", "CNY"), Terms(model, price, Granted(10**9), 512, False, 1)
    router, estimator, known = Router(), Estimator(), Costs()
    text = "Tell me of the sea. " * 30
    messages = msgspec.Raw(msgspec.json.encode([{"role": "user", "content": text}] * turns))
    number = 0

    def order() -> Order:
        nonlocal number
        number += 1
        return Order(number.to_bytes(16), "m", {"messages": messages}, 1000 * max(1, turns), 512, 1, True)

    for one in offers:
        asked = order()
        call = router.begin(asked, Quote(caller, one, price, cost[one.upstream], 10**9, 512, False, 1), 0)
        call.spoke(one.id * NS_PER_MS)
        call.came_whole(asked, Usage(200, 50, 300), 10**9)
    finding = choosing = float("inf")
    for _ in range(ROUNDS):
        wanted = [Wanted(order(), caller, terms, routes) for _ in range(EACH)]
        at = time.process_time_ns()
        for each in wanted:
            known.of(snapshot, model, each.order, 1, "CNY", choose)
        finding = min(finding, (time.process_time_ns() - at) / EACH / 1000)
        found = known.of(snapshot, model, wanted[0].order, 1, "CNY", choose)
        at = time.process_time_ns()
        for each in wanted:
            router.rank(each, found, estimator, 10**9)
        choosing = min(choosing, (time.process_time_ns() - at) / EACH / 1000)
    return finding, choosing


def main() -> None:
    for offers_count in [int(word) for word in sys.argv[1:]] or [1, 2, 4, 16]:
        for guard in (Guard.OFF, Guard.REFUSE):
            for turns in (0, 2):
                finding, choosing = measured(offers_count, guard, turns)
                kind = "a short chat" if turns else "no prompt to compare"
                what = f"{offers_count:3} offers, guard {guard:7} {kind:20}"
                print(f"{what}: tariffs {finding:6.1f} µs, choice {choosing:6.1f} µs")


if __name__ == "__main__":
    main()
