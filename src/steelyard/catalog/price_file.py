"""Reads price files: TOML with [[price]], [[cost]] and [[rate]] entries, checked field by field.

Owns which entries and fields there are. Knows no database. What is not understood is refused; every complaint names
entry and field. How a field is read stands in catalog.entry, the tables of conditions in catalog.condition_file.
"""

import tomllib
from collections.abc import Collection, Iterator
from typing import Any

from steelyard.catalog.condition_file import ReadLines, variants_in
from steelyard.catalog.entry import (
    CALL,
    REUSED_METERS,
    TOKEN_METERS,
    WORK_PER,
    Wrong,
    currency_in,
    decimal_in,
    effective_from_in,
    flag_in,
    per_in,
    subject_in,
    text_in,
    tier_in,
    token_lines,
    work_line,
)
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_HOUR
from steelyard.kernel.errors import CallerError
from steelyard.kernel.frozen import Record
from steelyard.kernel.money import NANO_PER_UNIT, PICO_PER_UNIT
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Tariff, TariffLine, Variant

PRICE, COST, RATE = "price", "cost", "rate"
SUBJECT_FIELD = {PRICE: "model", COST: "upstream", RATE: "from"}
MICROJOULES_PER_KWH = 3_600_000_000_000

_VENDOR = "cost of tokens"
"""What a [[cost]] is that prices tokens, as a vendor's does, in the place of an engine's work."""
_GPUS = "cost of GPUs"
"""What a [[cost]] is of an engine whose time is that of GPUs."""
_FIELDS = {
    PRICE: ("model", "currency", "effective_from", "per", "input", "cached_input", "output", "source"),
    COST: ("upstream", "currency", "effective_from", "cpu_hour", "watts_per_busy_core", "kwh", "source"),
    _GPUS: ("upstream", "currency", "effective_from", "gpu_hour", "watts_per_busy_gpu", "kwh", "source"),
    _VENDOR: ("upstream", "currency", "effective_from", "per", "input", "cached_input", "output", "source"),
    RATE: ("from", "to", "rate", "effective_from", "source"),
}
_OF_TEXT = frozenset({"cached_input", "output"})
"""A model that only reads (embeddings, ranks, judges) uses neither: both may be left out together."""
_MAY_HAVE = {
    PRICE: ("tier", "cache_write", "reasoning", *REUSED_METERS, CALL, "marginal", "when"),
    COST: ("when",),
    _GPUS: ("when",),
    _VENDOR: ("model", "cache_write", "reasoning", CALL, "marginal", "when"),
    RATE: (),
}
"""Tokens without a price of their own have that of `input` and of `output`, see rating.rate."""
_ENGINE_METERS = {
    "cpu_hour": (Meter.CPU, NS_PER_HOUR),
    "gpu_hour": (Meter.GPU, NS_PER_HOUR),
    "kwh": (Meter.ENERGY, MICROJOULES_PER_KWH),
}
_VARIES = {
    PRICE: (*TOKEN_METERS, *REUSED_METERS, CALL),
    COST: ("cpu_hour", "kwh"),
    _GPUS: ("gpu_hour", "kwh"),
    _VENDOR: (*TOKEN_METERS, CALL),
}
"""Fields that a variant may have other prices of."""
_WATTS = {
    COST: ("watts_per_busy_core", limits.WATTS_PER_CORE_MAX, "core"),
    _GPUS: ("watts_per_busy_gpu", limits.WATTS_PER_GPU_MAX, "GPU"),
}
_NUMBERS = frozenset((*TOKEN_METERS, *REUSED_METERS, *_ENGINE_METERS, *(field for field, _, _ in _WATTS.values())))
_OF_VENDORS = frozenset((*TOKEN_METERS, CALL, "model", "per"))
_OF_GPUS = frozenset({"gpu_hour", "watts_per_busy_gpu"})


class TariffDraft(Record, frozen=True):
    """A tariff version as a file states it; it gets its id when it is loaded."""

    book: str  # "price", "cost" or "rate"
    subject: str
    currency: str  # of the prices; of a rate, what the subject is turned into
    effective_from_ns: int
    lines: tuple[TariffLine, ...]
    source: str
    watts_milli: int = 0
    tier: str = ""
    variants: tuple[Variant, ...] = ()
    marginal: bool = False
    model: str = ""

    def tariff(self, tariff_id: int) -> Tariff:
        """As the version of that id."""
        return Tariff(
            id=tariff_id,
            subject=self.subject,
            currency=self.currency,
            effective_from_ns=self.effective_from_ns,
            lines=self.lines,
            source=self.source,
            watts_milli=self.watts_milli,
            tier=self.tier,
            variants=self.variants,
            marginal=self.marginal,
            model=self.model,
        )


class PriceFile(Record, frozen=True):
    """A checked file. `tariffs` stand in the order of the file, prices first."""

    tariffs: tuple[TariffDraft, ...]


def parse_price_file(text: str) -> PriceFile:
    """The tariffs of a price file. Raises CallerError 400 that names every entry and field at fault."""
    if len(text.encode()) > limits.PRICE_FILE_BYTES_MAX:
        raise _refusal([f"The file is larger than {limits.PRICE_FILE_BYTES_MAX} bytes. Split it."])
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal([f"This is not TOML: {error}. Correct that line."]) from None
    complaints: list[str] = []
    drafts: list[TariffDraft] = []
    first_with: dict[tuple[object, ...], str] = {}
    for place, book, entry in _entries(document, complaints):
        subject = entry.get(SUBJECT_FIELD[book])
        where = f"{place} ({subject[:64]})" if isinstance(subject, str) and subject.isprintable() else place
        try:
            draft = _draft(book, entry)
            key = (book, draft.subject, *what_for(book, draft))
            if key in first_with:
                raise Wrong("effective_from", f"is the same as in {first_with[key]}. Give it another date or remove it")
        except Wrong as wrong:
            complaints.append(f"{where}{wrong}")
        else:
            first_with[key] = place
            drafts.append(draft)
    if not drafts and not complaints:
        complaints.append("The file has no [[price]], [[cost]] or [[rate]] entry. Write at least one.")
    if complaints:
        raise _refusal(complaints)
    return PriceFile(tuple(drafts))


def what_for(book: str, one: TariffDraft | Tariff) -> tuple[object, ...]:
    """Where this differs two tariffs of one subject are no versions of each other; rates are by both currencies."""
    return one.effective_from_ns, one.tier, one.model, one.currency if book == RATE else ""


def _refusal(complaints: list[str]) -> CallerError:
    shown = complaints[: limits.PRICE_FILE_COMPLAINTS_MAX]
    if len(complaints) > len(shown):
        shown.append(f"… and {len(complaints) - len(shown)} more.")
    return CallerError(400, "invalid_price_file", "\n".join(shown), param="text")


def _entries(document: dict[str, Any], complaints: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place ("[[price]] 2"), book and fields of every entry that is a table."""
    for name in document:
        if name not in SUBJECT_FIELD:
            complaints.append(f"'{name}' is not known here. A price file has only [[price]], [[cost]] and [[rate]].")
    for book in SUBJECT_FIELD:
        found = document.get(book, [])
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            complaints.append(f"'{book}' must be written [[{book}]], with double brackets, once per entry.")
            continue
        for number, entry in enumerate(found, 1):
            yield f"[[{book}]] {number}", book, entry


def _draft(book: str, entry: dict[str, Any]) -> TariffDraft:
    per = entry.get("per")
    if book != RATE and isinstance(per, str) and per in WORK_PER:
        return _work(book, entry)
    sort = _sort_of(book, entry)
    of = f"[[{book}]]{sort.removeprefix(book)}"
    _refuse_unknown(entry, of, (*_FIELDS[sort], *_MAY_HAVE[sort]))
    reads_only = _OF_TEXT.isdisjoint(entry)
    for field in _FIELDS[sort]:
        if field not in entry and not (reads_only and field in _OF_TEXT):
            free = ' (what is free is written "0")' if field in _NUMBERS else ""
            raise Wrong(field, f"is missing. Add it{free}")
    if book == RATE:
        return _rate(entry)
    read_lines = _cost_lines if sort in _WATTS else _price_lines(entry)
    return TariffDraft(
        book,
        subject_in(entry, SUBJECT_FIELD[book]),
        currency_in(entry),
        effective_from_in(entry),
        read_lines(entry),
        text_in(entry, "source"),
        _watts_milli(entry, sort) if sort in _WATTS else 0,
        tier_in(entry),
        variants_in(entry, book, _VARIES[sort], read_lines),
        flag_in(entry, "marginal"),
        subject_in(entry, "model") if sort == _VENDOR and "model" in entry else "",
    )


def _sort_of(book: str, entry: dict[str, Any]) -> str:
    """What sort of entry its fields make it."""
    if book == COST and not _OF_VENDORS.isdisjoint(entry):
        return _VENDOR
    return _GPUS if book == COST and not _OF_GPUS.isdisjoint(entry) else book


def _refuse_unknown(entry: dict[str, Any], of: str, known: Collection[str]) -> None:
    for field in entry:
        if field not in known:
            raise Wrong(field, f"is not known. A {of} has {', '.join(known)}")


def _work(book: str, entry: dict[str, Any]) -> TariffDraft:
    """Of work that is not text: one price per entry, without variants."""
    line_field = str(WORK_PER[entry["per"]][0])
    fields = (SUBJECT_FIELD[book], "currency", "effective_from", "per", line_field, "source")
    _refuse_unknown(entry, f"[[{book}]] per {entry['per']}", (*fields, "tier" if book == PRICE else "model"))
    for field in fields:
        if field not in entry:
            raise Wrong(field, "is missing. Add it")
    return TariffDraft(
        book,
        subject_in(entry, SUBJECT_FIELD[book]),
        currency_in(entry),
        effective_from_in(entry),
        (work_line(entry),),
        text_in(entry, "source"),
        tier=tier_in(entry),
        model=subject_in(entry, "model") if book == COST and "model" in entry else "",
    )


def _rate(entry: dict[str, Any]) -> TariffDraft:
    bought, paid = currency_in(entry, "from"), currency_in(entry, "to")
    if bought == paid:
        raise Wrong("to", f"is {paid} like 'from'. Write what one {bought} is worth in another currency")
    text, pico = decimal_in(entry, "rate")
    if not 0 < pico <= limits.FX_RATE_MAX * PICO_PER_UNIT:
        raise Wrong("rate", f"must be above 0 and at most {limits.FX_RATE_MAX}. Write what one {bought} is in {paid}")
    line = TariffLine(Meter.MONEY, text, pico, NANO_PER_UNIT)
    return TariffDraft(RATE, bought, paid, effective_from_in(entry), (line,), text_in(entry, "source"))


def _price_lines(entry: dict[str, Any]) -> ReadLines:
    """Reads the lines of the entry, and those of its variants: all are per the same number of tokens."""
    per = per_in(entry)
    return lambda table: token_lines(table, per)


def _cost_lines(table: dict[str, Any]) -> tuple[TariffLine, ...]:
    """Of an engine; a variant may have but one of them."""
    return tuple(
        TariffLine(meter, *decimal_in(table, field), per)
        for field, (meter, per) in _ENGINE_METERS.items()
        if field in table
    )


def _watts_milli(entry: dict[str, Any], sort: str) -> int:
    field, watts_max, of = _WATTS[sort]
    text, pico = decimal_in(entry, field)
    milli, rest = divmod(pico * 1000, PICO_PER_UNIT)
    if rest:
        raise Wrong(field, f"{text} has more than three decimals. Write fewer")
    if milli > watts_max * 1000:
        raise Wrong(field, f"is more than {watts_max} watts for one {of}. Check it")
    return milli
