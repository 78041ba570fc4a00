"""What a tariff says at a moment: which of its prices count then, which depend on the request, and when that changes.

Pure, for people who look: the commands and the Prices page. Which price a request pays is told by rating, not here.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from steelyard.catalog.conditions import holds
from steelyard.catalog.tariffs import in_force
from steelyard.kernel import limits
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.frozen import Record
from steelyard.kernel.tariff import Condition, Tariff, TariffLine, Thinking


class PriceRow(Record, frozen=True):
    """The prices of a tariff or of one of its variants, by meter. `counts`: None where the request decides."""

    variant: str  # empty: the tariff's own
    when: Condition | None  # its conditions
    prices: dict[str, str]
    counts: bool | None


class Standing(Record, frozen=True):
    """A version in force. `next_ns`: when other prices count by the clock or a newer version begins; None: not soon."""

    book: str
    subject: str
    model: str
    tier: str
    version: int
    currency: str
    per: int
    effective_from_ns: int
    source: str
    rows: tuple[PriceRow, ...]
    next_ns: int | None
    marginal: bool = False  # a band prices only the tokens inside it, not the whole request

    @property
    def now(self) -> PriceRow:
        """The row that counts by the clock, whatever the request is like."""
        return next((row for row in self.rows if row.counts), self.rows[-1])


def standing_at(book: str, versions: Iterable[Tariff], at_ns: int) -> tuple[Standing, ...]:
    """The versions of one subject that are in force: one per model and tier."""
    versions = tuple(versions)
    kinds = dict.fromkeys((one.model, one.tier, one.currency if book == "rate" else "") for one in versions)
    found = []
    for model, tier, currency in kinds:
        of_kind = [one for one in versions if (one.model, one.tier) == (model, tier) and currency in {"", one.currency}]
        tariff = in_force(of_kind, at_ns, tier)
        if tariff is not None:
            later = [one.effective_from_ns for one in of_kind if one.effective_from_ns > at_ns]
            found.append(_standing(book, tariff, at_ns, min(later, default=None)))
    return tuple(found)


def _standing(book: str, tariff: Tariff, at_ns: int, newer_ns: int | None) -> Standing:
    rows, decided = [], False
    for variant in tariff.variants:
        counts = _counts(variant.when, at_ns) if not decided else False
        decided = decided or counts is True
        rows.append(PriceRow(variant.name, variant.when, _prices(variant.lines), counts))
    rows.append(PriceRow("", None, _prices(tariff.lines), not decided))
    turn_ns = _next_turn(tariff, at_ns)
    return Standing(
        book=book,
        subject=tariff.subject,
        model=tariff.model,
        tier=tariff.tier,
        version=tariff.id,
        currency=tariff.currency,
        per=tariff.lines[0].per,
        effective_from_ns=tariff.effective_from_ns,
        source=tariff.source,
        rows=tuple(rows),
        next_ns=min((one for one in (newer_ns, turn_ns) if one is not None), default=None),
        marginal=tariff.marginal,
    )


def _prices(lines: Iterable[TariffLine]) -> dict[str, str]:
    return {str(line.meter): line.text for line in lines}


def _counts(when: Condition, at_ns: int) -> bool | None:
    """Whether the condition holds by the clock; None when it does, and the rest is for the request to say."""
    if not _by_clock(when, at_ns):
        return False
    return None if when.thinking is not None or when.bands_input or when.bands_output else True


def _by_clock(when: Condition, at_ns: int) -> bool:
    return holds(msgspec.structs.replace(when, thinking=None), at_ns, Thinking.UNSAID)


def _next_turn(tariff: Tariff, at_ns: int) -> int | None:
    """The next moment at which a variant begins or ends to hold by the clock, within the days that are looked at."""
    clocked = [variant.when for variant in tariff.variants if variant.when.zone]
    now = [_by_clock(when, at_ns) for when in clocked]
    edges = sorted({edge for when in clocked for edge in _edges(when, at_ns) if edge > at_ns})
    return next((edge for edge in edges if [_by_clock(when, edge) for when in clocked] != now), None)


def _edges(when: Condition, at_ns: int) -> Iterable[int]:
    zone = zone_of(when.zone)
    today = datetime.fromtimestamp(at_ns // NS_PER_S, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    minutes = {0} | {minute for window in when.hours for minute in window}
    for day in range(limits.TURN_DAYS_MAX):
        for minute in minutes:
            wall = today + timedelta(days=day, minutes=minute)  # wall time: the offset is looked up for this very day
            yield int(wall.timestamp()) * NS_PER_S
