"""How tariffs in force look in a table: one row for each price that may count, the base price last."""

from collections.abc import Iterable
from typing import Any

from steelyard.catalog.price_diff import Change
from steelyard.catalog.price_text import condition_lines
from steelyard.catalog.standing import Standing
from steelyard.cli.show import Column, Row, moment, short_moment, words

_UNITS = {1: "token", 1000: "1K tokens", 1_000_000: "1M tokens"}
_METERS = (
    *("input", "cached_input", "cache_write", "output", "reasoning", "reused_input", "reused_output"),
    *("cpu", "gpu", "energy"),
)


def _price(title: str, meter: str) -> Column:
    return Column(title, lambda row: str(row["prices"].get(meter, "")), right=True)


def _counts(row: Row) -> str:
    return {True: "now", None: "by request", False: ""}[row["counts"]]


def _reused(row: Row) -> str:
    """What an answer that was given before costs: its prompt and its output."""
    found = [str(row["prices"].get(meter, "–")) for meter in ("reused_input", "reused_output")]
    return " / ".join(found) if found != ["–", "–"] else ""


PRICE_COLUMNS = (
    words("Of", "of"),
    words("Variant", "variant"),
    Column("Counts", _counts),
    _price("Input", "input"),
    _price("Cached", "cached_input"),
    _price("Written", "cache_write"),
    _price("Output", "output"),
    _price("Reasoning", "reasoning"),
    Column("Reused", _reused, right=True),
    words("Unit", "unit"),
    moment("Next change", "next_ns"),
    words("When", "words"),
)


def price_rows(found: Iterable[Standing]) -> list[dict[str, Any]]:
    """Rows for PRICE_COLUMNS."""
    rows = []
    for one in found:
        for row in one.rows:
            rows.append(
                {
                    "of": _of(one),
                    "variant": row.variant or ("otherwise" if len(one.rows) > 1 else ""),
                    "counts": row.counts,
                    "prices": row.prices,
                    "unit": f"{one.currency} per {_UNITS.get(one.per, 'unit')}",
                    "next_ns": one.next_ns,
                    "words": ", ".join(condition_lines(row.when)) if row.when else "",
                }
            )
    return rows


def _of(one: Standing) -> str:
    tier = f" ({one.tier})" if one.tier else ""
    at = f" at {one.subject}" if one.model else ""
    return f"{one.book} of {one.model or one.subject}{at}{tier}"


DIFF_COLUMNS = (
    words("Entry", "of"),
    words("From", "since"),
    words("Change", "change"),
    words("What", "what"),
    words("Old", "old"),
    words("New", "new"),
)


def diff_rows(found: Iterable[Change]) -> list[dict[str, Any]]:
    """Rows for DIFF_COLUMNS: one for each price and field that differs."""
    rows: list[dict[str, Any]] = []
    for one in found:
        draft = one.draft
        subject = f"{draft.book} {draft.subject} {draft.model}".strip() + (f" ({draft.tier})" if draft.tier else "")
        change = str(one.fate) + ("" if one.version is None else f" version {one.version}")
        head: dict[str, Any] = {
            "of": subject,
            "since": short_moment(draft.effective_from_ns),
            "change": change,
        }
        for line in one.lines:
            what = f"{line.variant}: {line.meter}" if line.variant else line.meter
            rows.append(head | {"what": what, "old": line.old, "new": line.new})
        for field, (old, new) in one.fields.items():
            rows.append(head | {"what": field, "old": old, "new": new})
        if not one.lines and not one.fields:
            rows.append(head)
    return rows
