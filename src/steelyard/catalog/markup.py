"""Prices out of costs: so many percent more, line for line, with every condition as it stands in the cost book.

Pure, and exact: a decimal that the books cannot keep is rounded up in its last place, so that the margin is never less
than what was asked for.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import msgspec

from steelyard.catalog.price_file import PRICE, TariffDraft
from steelyard.catalog.tariffs import in_force
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.frozen import Record
from steelyard.kernel.money import CURRENCIES, PICO_PER_UNIT
from steelyard.kernel.tariff import Tariff, TariffLine


class Wish(Record, frozen=True):
    """What somebody wants: so many percent (decimal text), in a currency; empty: in that of the costs."""

    percent: str
    currency: str = ""


class Conversion(Record, frozen=True):
    """What one unit of the cost's currency is in the price's, and who says so."""

    currency: str
    ratio: Fraction
    source: str


def marked_up(
    cost: TariffDraft, percent: Decimal, rate: Conversion | None = None, names: Mapping[str, str] | None = None
) -> TariffDraft:
    """The price of a model that costs this. `names`: the vendor's names of models → ours, where they differ.

    Raises CallerError 400 for a tariff of no model, and for a percentage no price can have.
    """
    if not cost.model:
        raise CallerError(400, "no_model", f"The cost of {cost.subject} names no model, so no price follows from it.")
    if not percent.is_finite() or not -100 < percent <= limits.MARKUP_PERCENT_MAX:
        most = limits.MARKUP_PERCENT_MAX
        raise bad_request(f"'percent' must be more than -100 and at most {most}.", "percent")
    factor = (1 + Fraction(percent) / 100) * (rate.ratio if rate else 1)
    words = f"{percent:f} % on {cost.source}" + (f"; {cost.currency} at {rate.source}" if rate else "")
    return msgspec.structs.replace(
        cost,
        book=PRICE,
        subject=(names or {}).get(cost.model, cost.model),
        model="",
        currency=rate.currency if rate else cost.currency,
        lines=tuple(_line(line, factor) for line in cost.lines),
        variants=tuple(
            msgspec.structs.replace(one, lines=tuple(_line(line, factor) for line in one.lines))
            for one in cost.variants
        ),
        source=words,
    )


def marked_up_from_now(
    costs: Iterable[TariffDraft],
    names: Mapping[str, str],
    wish: Wish,
    rates: Mapping[str, tuple[Tariff, ...]],
    now_ns: int,
) -> list[TariffDraft]:
    """Prices of the models in `names` (the vendor's name → ours) from now on; the past needs none any more.

    `rates` are those of the books by currency. Raises CallerError 400 for a percentage that is none or a currency that
    no rate leads to.
    """
    try:
        percent = Decimal(wish.percent)
    except InvalidOperation:
        raise bad_request("'percent' must be a number, such as 20 or 12.5.", "percent") from None
    if wish.currency and wish.currency not in CURRENCIES:
        raise bad_request(f"'currency' must be one of {', '.join(CURRENCIES)}.", "currency")
    chosen = from_now_on((cost for cost in costs if cost.model in names), now_ns)
    conversions = {cost.currency: _conversion(cost.currency, wish.currency, rates, now_ns) for cost in chosen}
    return [marked_up(cost, percent, conversions[cost.currency], names) for cost in chosen]


def _conversion(bought: str, wanted: str, rates: Mapping[str, tuple[Tariff, ...]], now_ns: int) -> Conversion | None:
    if wanted in {"", bought}:
        return None
    rate = in_force((one for one in rates.get(bought, ()) if one.currency == wanted), now_ns)
    if rate is None:
        sentence = f"No rate turns {bought} into {wanted}. Load a [[rate]] from {bought} to {wanted} first."
        raise CallerError(400, "rate_missing", sentence, param="currency")
    (line,) = rate.lines
    return Conversion(wanted, Fraction(line.pico, PICO_PER_UNIT), f"{line.text} ({rate.source})")


def from_now_on(drafts: Iterable[TariffDraft], now_ns: int) -> list[TariffDraft]:
    """Of each model and tier the version in force, and those that follow it."""
    drafts, since = list(drafts), dict[tuple[str, str, str], int]()
    for draft in drafts:
        if draft.effective_from_ns <= now_ns:
            key = (draft.subject, draft.model, draft.tier)
            since[key] = max(since.get(key, 0), draft.effective_from_ns)
    return [one for one in drafts if one.effective_from_ns >= since.get((one.subject, one.model, one.tier), 0)]


def _line(line: TariffLine, factor: Fraction) -> TariffLine:
    per_token = Fraction(line.pico, line.per) * factor
    pico = -(-per_token.numerator // per_token.denominator) * line.per
    return TariffLine(line.meter, _text(pico), pico, line.per)


def _text(pico: int) -> str:
    whole, fraction = divmod(pico, PICO_PER_UNIT)
    return f"{whole}.{fraction:012}".rstrip("0").rstrip(".")
