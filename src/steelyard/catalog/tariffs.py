"""Which tariff version counts at a moment, and whether it prices everything that can be used.

Pure functions of records. Versions are never edited: of two with the same date the one loaded later counts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from steelyard.kernel.choice import Candidate
from steelyard.kernel.errors import price_missing
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Tariff

PRICE_NEEDS = frozenset({Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT})
"""A model is only served while all of these have a price; an explicit 0 is one."""
READING_NEEDS = frozenset({Meter.INPUT})
"""What only reads has no output tokens and no prefix to keep: a price of its input is a whole price."""
BATCH_TIER = "batch"
"""The tier of a batch's lines: they may wait, and often cost less."""
TIERS = (BATCH_TIER,)
COST_NEEDS = frozenset({Meter.CPU, Meter.ENERGY})


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


def costed(
    model: str, offers: Sequence[Offer], costs: Mapping[str, Sequence[Tariff]], at_ns: int, currency: str
) -> list[Candidate]:
    """The offers whose cost is known, each with the tariff of it. Raises CallerError `price_missing` without any."""
    found = []
    for offer in offers:
        cost = in_force(costs.get(offer.upstream, ()), at_ns)
        if cost is not None and cost.currency == currency and complete(cost, COST_NEEDS):
            found.append(Candidate(offer, cost))
    if not found:
        raise price_missing(model)
    return found


def price_needs(capability: Capability) -> frozenset[Meter]:
    """What must have a price before this is sold."""
    return PRICE_NEEDS if capability is Capability.TEXT else READING_NEEDS


def complete(tariff: Tariff, needs: Collection[Meter]) -> bool:
    """Whether the tariff prices every one of `needs`."""
    return set(needs) <= {line.meter for line in tariff.lines}


def newest(version: Tariff) -> tuple[int, int]:
    """The order of versions: by date, then by when they were loaded."""
    return version.effective_from_ns, version.id
