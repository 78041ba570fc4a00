"""What loading a price file would change: entry by entry, line by line. Pure; decides nothing and loads nothing."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from steelyard.catalog.price_file import TariffDraft, what_for
from steelyard.catalog.price_text import condition_lines
from steelyard.catalog.tariffs import newest
from steelyard.kernel.frozen import Record
from steelyard.kernel.tariff import Condition, Tariff, TariffLine

Standing = Mapping[str, Mapping[str, tuple[Tariff, ...]]]
"""Book → subject → versions."""


class Fate(StrEnum):
    """What becomes of an entry when it is loaded."""

    NEW = "new"  # the first version of its subject
    FOLLOWS = "follows"  # a version counts before it; `version` is that one
    SUPERSEDES = "supersedes"  # a version of the same date says something else; `version` is that one
    UNCHANGED = "unchanged"  # `version` says the same


class LineChange(Record, frozen=True):
    """One price, as text per the entry's unit; None: there is none."""

    variant: str  # empty: the tariff's own lines
    meter: str
    old: str | None
    new: str | None


class Change(Record, frozen=True):
    """An entry against what stands. `fields`: what else differs, old and new (currency, source, conditions …)."""

    fate: Fate
    draft: TariffDraft
    version: int | None = None
    lines: tuple[LineChange, ...] = ()
    fields: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)


def changes(drafts: Iterable[TariffDraft], standing: Standing) -> tuple[Change, ...]:
    """One for each entry, in the order of the file."""
    return tuple(_change(draft, standing.get(draft.book, {}).get(draft.subject, ())) for draft in drafts)


def _change(draft: TariffDraft, versions: tuple[Tariff, ...]) -> Change:
    moment, *kind = what_for(draft.book, draft)
    of_kind = [one for one in versions if what_for(draft.book, one)[1:] == tuple(kind)]
    same = [one for one in of_kind if one.effective_from_ns == moment]
    before = [one for one in of_kind if one.effective_from_ns < draft.effective_from_ns]
    old = max(same or before, key=newest, default=None)
    lines, fields = _lines(old, draft), _fields(old, draft)
    if old is None:
        return Change(Fate.NEW, draft, None, lines)
    if not same:
        return Change(Fate.FOLLOWS, draft, old.id, lines, fields)
    fate = Fate.SUPERSEDES if lines or fields else Fate.UNCHANGED
    return Change(fate, draft, old.id, lines, fields)


def _lines(old: Tariff | None, new: TariffDraft) -> tuple[LineChange, ...]:
    was, now = ({} if old is None else _texts(old)), _texts(new)
    keys = dict.fromkeys((*now, *was))
    return tuple(
        LineChange(*key, was.get(key), now.get(key)) for key in keys if old is None or was.get(key) != now.get(key)
    )


def _texts(one: Tariff | TariffDraft) -> dict[tuple[str, str], str]:
    """(variant, meter) → price. Equal prices are equal, however many zeros they end in."""
    tables: dict[str, tuple[TariffLine, ...]] = {"": one.lines} | {each.name: each.lines for each in one.variants}
    return {(name, str(line.meter)): _plain(line) for name, lines in tables.items() for line in lines}


def _plain(line: TariffLine) -> str:
    text = line.text.rstrip("0").rstrip(".") if "." in line.text else line.text
    return text if line.per == 1_000_000 else f"{text} per {line.per:,}"


def _fields(old: Tariff | None, new: TariffDraft) -> dict[str, tuple[str, str]]:
    if old is None:
        return {}
    pairs = {
        "currency": (old.currency, new.currency),
        "source": (old.source, new.source),
        "watts": (str(old.watts_milli), str(new.watts_milli)),
        "marginal": (str(old.marginal).lower(), str(new.marginal).lower()),
        "conditions": (_conditions(old), _conditions(new)),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _conditions(one: Tariff | TariffDraft) -> str:
    return "; ".join(f"{each.name}: {_words(each.when)}" for each in one.variants)


def _words(when: Condition) -> str:
    return ", ".join(condition_lines(when))
