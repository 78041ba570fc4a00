"""How answers look: aligned tables for people, JSON for programs.

Owns formatting only: what a column shows comes in as data. JSON carries amounts as integers and as decimal text.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, cast

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steelyard.gateway.figures import with_texts
from steelyard.kernel.clock import NS_PER_MS, iso_from_ns
from steelyard.kernel.money import money_from_nano
from steelyard.kernel.quantities import Source, source_of

Row = Mapping[str, Any]
_PLAIN_WIDTH = 10_000  # a pipe has no edge: nothing is wrapped or cut
_NAME_LEAST = 8  # what a name gets of a narrow terminal, before figures are broken as well
_WORDS = re.compile(r" (?=[a-z(]{3})")
_BLANKS = re.compile(r" +$", re.MULTILINE)
_UJ_PER_J = 1_000_000


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how a row's cell reads."""

    title: str
    cell: Callable[[Row], str]
    right: bool = False


def words(title: str, name: str) -> Column:
    """A text; a missing one is a dash."""
    return Column(title, lambda row: "–" if row.get(name) in {None, ""} else str(row[name]))


def count(title: str, name: str) -> Column:
    """A whole number; nothing where a row has none."""
    return Column(title, lambda row: "" if row.get(name) is None else f"{row[name]:,}", right=True)


def money(title: str, name: str) -> Column:
    """An amount in the row's currency, exact to the nano."""
    return Column(title, lambda row: money_from_nano(row[name], row["currency"]), right=True)


def when(title: str, name: str) -> Column:
    """The same of a time that is told as RFC 3339 text."""
    return Column(title, lambda row: "–" if not row.get(name) else row[name][:19].replace("T", " ") + "Z")


def moment(title: str, name: str) -> Column:
    """A time in UTC to the second."""
    return Column(title, lambda row: "–" if row.get(name) is None else short_moment(row[name]))


def millis(title: str, name: str) -> Column:
    return Column(title, lambda row: f"{row[name] // NS_PER_MS:,} ms", right=True)


def joules(title: str, name: str, measured: str) -> Column:
    """Energy with its label; a dash where there is none."""

    def cell(row: Row) -> str:
        return f"{energy_text(row[name])} {source_text(row[name], row[measured])}" if row[name] else "–"

    return Column(title, cell, right=True)


def source_text(energy_uj: int, measured_uj: int) -> str:
    """The label of an amount of energy; nothing where there is none."""
    match source_of(energy_uj, measured_uj):
        case Source.NONE:
            return ""
        case Source.PARTLY:
            return f"({percent_text(measured_uj, energy_uj)} measured, the rest modelled)"
        case source:
            return source.value


def percent(title: str, part: str, whole: str) -> Column:
    return Column(title, lambda row: percent_text(row[part], row[whole]), right=True)


def short_moment(ns: int) -> str:
    return iso_from_ns(ns)[:19].replace("T", " ") + "Z"


def energy_text(microjoules: int) -> str:
    """Joules with three decimals; kilowatt-hours from 360 kJ on."""
    if microjoules >= 360_000 * _UJ_PER_J:
        return f"{microjoules / (3_600_000 * _UJ_PER_J):,.3f} kWh"
    return f"{microjoules / _UJ_PER_J:,.3f} J"


def percent_text(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


class _Trimmed:
    """A stream without blanks at the ends of lines: a table fills its last column, and what is pasted need not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_BLANKS.sub("", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console(stream: TextIO | None = None) -> Console:
    """A console that never cuts a line when it writes into a pipe or file."""
    stream = stream or sys.stdout
    plain = not stream.isatty()
    width = _PLAIN_WIDTH if plain and "COLUMNS" not in os.environ else None
    file = cast(TextIO, _Trimmed(stream)) if plain else stream
    return Console(file=file, width=width, highlight=False, markup=False, soft_wrap=False)


class Show:
    """The answer of one command, in the form asked for."""

    def __init__(self, as_json: bool, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stream = stream or sys.stdout
        self._console = console(self._stream)

    def json(self, value: object) -> None:
        text = msgspec.json.format(msgspec.json.encode(with_texts(value)), indent=2)
        self._stream.write(text.decode() + "\n")

    def rows(self, rows: Iterable[object], columns: Sequence[Column], empty: str) -> None:
        """A table, or the sentence `empty` when there is nothing to show."""
        plain = msgspec.to_builtins(list(rows))
        if self.as_json:
            self.json(plain)
            return
        if not plain:
            self._console.print(empty)
            return
        self._console.print(table(plain, columns, self._console.width))

    def say(self, text: str, value: object) -> None:
        """One sentence for people, the value for programs."""
        if self.as_json:
            self.json(value)
        else:
            self._console.print(text)

    def text(self, text: str, value: object) -> None:
        """A text to be kept as it is, such as a file; the value for programs."""
        if self.as_json:
            self.json(value)
        else:
            self._stream.write(text)

    def line(self, text: str | Text = "") -> None:
        """A line for people only."""
        if not self.as_json:
            self._console.print(text)


def table(rows: Sequence[Row], columns: Sequence[Column], width: int = _PLAIN_WIDTH) -> Table:
    """Aligned, without frames, so that it pastes well. In a short `width` names are broken, and figures are not."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    longest = [
        max(map(cell_len, (one.title, *texts))) for one, texts in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    narrow = sum(longest) + 2 * len(columns) > width
    kept = _figures(cells, columns) if narrow else {}
    if sum(kept.values()) + len(columns) + _NAME_LEAST * (len(columns) - len(kept)) > width:
        kept = {}
    made = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    for at, column in enumerate(columns):
        made.add_column(column.title, justify="right" if column.right else "left", overflow="fold", width=kept.get(at))
    for texts in cells:
        made.add_row(*map(Text, texts))
    return made


def _figures(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> dict[int, int]:
    """How wide columns of figures must be for none to be broken: a unit stays with its number, a word need not."""
    return {
        at: max(map(cell_len, (*column.title.split(), *(part for row in cells for part in _WORDS.split(row[at])))))
        for at, column in enumerate(columns)
        if column.right
    }
