"""Which tariff version counts at a moment, and whether it prices everything that can be used.

Pure functions of records. Versions are never edited: of two with the same date the one loaded later counts.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from steelyard.catalog.conditions import met
from steelyard.kernel.choice import Candidate, Sold
from steelyard.kernel.errors import CallerError, cost_missing, price_missing, rate_missing
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.quantities import Meter
from steelyard.kernel.records import Order, Snapshot
from steelyard.kernel.tariff import Tariff
from steelyard.kernel.thinking import thinking_of

PRICE_NEEDS = frozenset({Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT})
"""A model is only served while all of these have a price; an explicit 0 is one."""
READING_NEEDS = frozenset({Meter.INPUT})
"""What only reads has no output tokens and no prefix to keep: a price of its input is a whole price."""
BATCH_TIER = "batch"
"""The tier of a batch's lines: they may wait, and often cost less."""
TIERS = (BATCH_TIER,)
COST_NEEDS = frozenset({Meter.CPU, Meter.ENERGY})
"""What an engine's cost tariff prices; a vendor's prices what a price book must."""
GPU_NEEDS = frozenset({Meter.GPU, Meter.ENERGY})
"""The same of an engine on GPUs."""


def in_force(versions: Iterable[Tariff], at_ns: int, tier: str = "") -> Tariff | None:
    """The version that prices a request of this tier opened at `at_ns`, or None when there is none yet.

    A tier without a price of its own is sold at the normal one.
    """
    begun = [version for version in versions if version.effective_from_ns <= at_ns]
    of_tier = [version for version in begun if version.tier == tier]
    if not of_tier and tier:
        return in_force(begun, at_ns)
    return max(of_tier, key=newest, default=None)


def usable(
    model: str, versions: Iterable[Tariff], at_ns: int, currency: str, needs: Collection[Meter], tier: str = ""
) -> Tariff:
    """The version in force, if it prices all of `needs` in this currency. Raises CallerError `price_missing`."""
    found = in_force(versions, at_ns, tier)
    if found is None or found.currency != currency or not complete(found, needs):
        raise price_missing(model)
    return found


def sold(snapshot: Snapshot, models: Sequence[Model], order: Order, at_ns: int, currency: str) -> list[Sold]:
    """The models with their prices. The first must have one (CallerError `price_missing`), another is left out."""
    needs = price_needs(order.capability)
    found: list[Sold] = []
    for model in models:
        try:
            price = usable(model.name, snapshot.prices.get(model.name, ()), at_ns, currency, needs, order.tier)
        except CallerError:
            if not found:
                raise
        else:
            found.append(Sold(model, at_open(price, order, at_ns)))
    return found


def costed(snapshot: Snapshot, offers: Sequence[Offer], order: Order, at_ns: int, currency: str) -> list[Candidate]:
    """The offers whose cost is known, each with the tariff of it. Raises CallerError `price_missing` without any."""
    found: list[Candidate] = []
    reason: CallerError | None = None
    for offer in offers:
        try:
            found.append(_candidate(snapshot, offer, order, at_ns, currency))
        except CallerError as error:
            reason = reason or error
    if not found and reason is not None:
        raise reason
    return found


def _candidate(snapshot: Snapshot, offer: Offer, order: Order, at_ns: int, currency: str) -> Candidate:
    """The offer with what it costs at `at_ns`, for a customer who pays in `currency`.

    Of an upstream's tariffs the one for this very model counts, else the one for all of it. Raises CallerError
    `price_missing` when nothing prices all that can be used, or the vendor's currency has no rate.
    """
    versions = snapshot.costs.get(offer.upstream, ())
    found = in_force((one for one in versions if one.model == offer.upstream_model), at_ns) or in_force(
        (one for one in versions if not one.model), at_ns
    )
    if found is None or not complete(found, _cost_needs(found, order.capability)):
        raise cost_missing(offer.model)
    if found.currency == currency:
        return Candidate(offer, at_open(found, order, at_ns))
    rates = snapshot.rates.get(found.currency, ()) if found.of_vendor else ()
    rate = in_force((one for one in rates if one.currency == currency), at_ns)
    if rate is None:
        raise rate_missing(offer.model, found.currency, currency)
    return Candidate(offer, at_open(found, order, at_ns), rate=rate)


def _cost_needs(cost: Tariff, capability: Capability) -> frozenset[Meter]:
    return price_needs(capability) if cost.of_vendor else GPU_NEEDS if cost.of_gpus else COST_NEEDS


def at_open(tariff: Tariff, order: Order, at_ns: int) -> Tariff:
    """The tariff as it stands for an order that is opened at this moment: `met` says which variants can count."""
    if not tariff.variants:
        return tariff
    return msgspec.structs.replace(tariff, met=met(tariff, at_ns, thinking_of(order.params)))


def price_needs(capability: Capability) -> frozenset[Meter]:
    """What must have a price before this is sold."""
    return PRICE_NEEDS if capability is Capability.TEXT else READING_NEEDS


def complete(tariff: Tariff, needs: Collection[Meter]) -> bool:
    """Whether the tariff prices every one of `needs`."""
    return set(needs) <= {line.meter for line in tariff.lines}


def newest(version: Tariff) -> tuple[int, int]:
    """The order of versions: by date, then by when they were loaded."""
    return version.effective_from_ns, version.id
