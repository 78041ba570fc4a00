"""Prices and costs in force, found once per snapshot and stretch of time: a worker asks before every request.

What the moment decides within a version (its variants' conditions) is looked at every time. Knows nothing of routing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from steelyard.catalog.tariffs import at_open, costed, sold
from steelyard.kernel.choice import Candidate, Sold
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.records import Caller, Order, Snapshot
from steelyard.kernel.tariff import Tariff

Sought = Callable[[Snapshot, Caller, Order], Sequence[Model]]
"""The models that may answer an order, best first (routing.choose)."""
Chosen = Callable[[Model, Capability], Sequence[Offer]]
"""The offers of a model that can be asked this (routing.choose)."""


class _Stretch(NamedTuple):
    """From one change of a tariff to the next."""

    model: Model
    since_ns: int
    until_ns: int
    candidates: list[Candidate]
    varied: tuple[int, ...]  # the places of those with variants


class Prices:
    """One per worker: what models are sold for."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._known: dict[tuple[str, Capability, str, str], tuple[int, int, list[Sold]]] = {}  # since, until

    def of(self, snapshot: Snapshot, caller: Caller, order: Order, at_ns: int, sought: Sought) -> Sequence[Sold]:
        """`catalog.tariffs.sold` of the models that are `sought`, the same each time.

        Whoever names no fall-backs, and whose key has none, is sold what the last one was who named that model.
        """
        if snapshot is not self._snapshot:
            self._snapshot, self._known = snapshot, {}
        key = (order.model, order.capability, order.tier, caller.currency)
        keys = snapshot.routes.keys
        rule = keys.get(caller.key_id) if keys else None
        is_plain = not order.fallbacks and (rule is None or not rule.fallbacks)
        if is_plain and (known := self._known.get(key)) is not None and known[0] <= at_ns < known[1]:
            return known[2]
        models = sought(snapshot, caller, order)
        found = sold(snapshot, models, order, at_ns, caller.currency)
        if is_plain and not found[0].price.variants:  # what holds of one that has some depends on the order
            versions = snapshot.prices.get(models[0].name, ())
            until_ns = min(
                (one.effective_from_ns for one in versions if one.effective_from_ns > at_ns), default=INT64_MAX
            )
            self._known[key] = at_ns, until_ns, found
        return found


class Costs:
    """One per worker: which offers have a cost."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._known: dict[tuple[str, Capability, str], _Stretch] = {}

    def of(
        self, snapshot: Snapshot, model: Model, order: Order, at_ns: int, currency: str, chosen: Chosen
    ) -> list[Candidate]:
        """`catalog.tariffs.costed` for all the offers of a model that are `chosen` for this, the same each time.

        `model` may be of the snapshot before: whoever had to wait for his hold was sold it then.
        """
        if snapshot is not self._snapshot:
            self._snapshot, self._known = snapshot, {}
        key = (model.name, order.capability, currency)
        known = self._known.get(key)
        if known is None or known.model is not model or not known.since_ns <= at_ns < known.until_ns:
            offers = chosen(model, order.capability)
            found = costed(snapshot, offers, order, at_ns, currency)
            until_ns = min((at for at in _changes(snapshot, offers) if at > at_ns), default=INT64_MAX)
            varied = tuple(place for place, one in enumerate(found) if one.cost.variants)
            known = self._known[key] = _Stretch(model, at_ns, until_ns, found, varied)
        if not known.varied:
            return known.candidates
        candidates = known.candidates.copy()
        for place in known.varied:
            one = candidates[place]
            cost = at_open(one.cost, order, at_ns)
            candidates[place] = msgspec.structs.replace(one, cost=cost)
        return candidates


def _changes(snapshot: Snapshot, offers: Sequence[Offer]) -> Iterator[int]:
    """When any tariff or rate that may be theirs begins."""
    books: list[tuple[Tariff, ...]] = [snapshot.costs.get(name, ()) for name in {one.upstream for one in offers}]
    for versions in (*books, *snapshot.rates.values()):
        for version in versions:
            yield version.effective_from_ns
