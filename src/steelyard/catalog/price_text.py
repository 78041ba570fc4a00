"""Writes tariffs as a price file that `catalog.price_file` reads back to the same.

Owns the order of fields and the quoting. Knows no database.
"""

import json
from collections.abc import Iterable

from steelyard.catalog.entry import PER, WORK_PER
from steelyard.catalog.price_file import SUBJECT_FIELD, TariffDraft
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.tariff import DAY_KINDS, Condition, TariffLine

_PER_TEXT = {per: text for text, per in PER.items()}
_WORK_TEXT = {unit: text for text, unit in WORK_PER.items()}


def price_text(drafts: Iterable[TariffDraft], heading: str = "") -> str:
    """The file of tariffs of tokens; `heading` becomes its opening comment."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for draft in drafts:
        lines += ["", *_entry(draft)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _entry(draft: TariffDraft) -> Iterable[str]:
    yield f"[[{draft.book}]]"
    yield f"{SUBJECT_FIELD[draft.book]} = {_quoted(draft.subject)}"
    if draft.model:
        yield f"model = {_quoted(draft.model)}"
    if draft.tier:
        yield f"tier = {_quoted(draft.tier)}"
    yield f"currency = {_quoted(draft.currency)}"
    yield f"effective_from = {iso_from_ns(draft.effective_from_ns)}"
    yield f"per = {_quoted(_per(draft.lines[0]))}"
    yield from _prices(draft.lines)
    if draft.marginal:
        yield "marginal = true"
    yield f"source = {_quoted(draft.source)}"
    for variant in draft.variants:
        yield f"  [[{draft.book}.when]]"
        yield f"  name = {_quoted(variant.name)}"
        yield from (f"  {line}" for line in (*condition_lines(variant.when), *_prices(variant.lines)))


def condition_lines(when: Condition) -> Iterable[str]:
    """What must hold, in the words of the file: `input_over = 32000`."""
    if when.zone:
        yield f"zone = {_quoted(when.zone)}"
    if when.days:
        kind = when.days[0] in DAY_KINDS
        yield f"days = {_quoted(when.days[0]) if kind else _list(when.days)}"
    if when.hours:
        yield f"hours = {_list(f'{_clock(start)}-{_clock(end)}' for start, end in when.hours)}"
    if when.calendar:
        yield f"calendar = {_quoted(when.calendar)}"
    if when.not_on_holidays:
        yield "not_on_holidays = true"
    if when.thinking is not None:
        yield f"thinking = {str(when.thinking).lower()}"
    for field in ("input_over", "input_up_to", "output_over", "output_up_to"):
        tokens = getattr(when, field)
        if tokens is not None:
            yield f"{field} = {tokens}"


def _per(line: TariffLine) -> str:
    return _WORK_TEXT.get((line.meter, line.per)) or _PER_TEXT[line.per]


def _prices(lines: Iterable[TariffLine]) -> Iterable[str]:
    return (f"{line.meter} = {_quoted(line.text)}" for line in lines)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """A basic string of TOML: what JSON escapes, TOML reads; DEL it would leave bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
