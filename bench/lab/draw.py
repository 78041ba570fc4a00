"""`python -m bench.lab.draw`: the figures of bench/results as charts and tables in docs/explain/speed.md.

Draws bars on a logarithmic scale, because what is compared lies a thousandfold apart. Measures nothing; what is not in
the results is left out.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bench.lab.goals import lines as goal_lines
from bench.lab.told import OURS, REFERENCE
from bench.lab.trial import SHAPES
from bench.report import RESULTS, plain

PAGE = RESULTS.parent.parent / "docs" / "explain" / "speed.md"
BOOKS = "the books behind it"
_WIDE, _LINE, _LEFT, _RIGHT, _TOP = 760, 30, 210, 90, 46
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}.n{fill:#57606a;font-size:12px}"
    ".bar{fill:#8c959f}.own{fill:#0969da}.rule{stroke:#d0d7de}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9198a1}.bar{fill:#6e7681}.own{fill:#4493f8}"
    ".rule{stroke:#3d444d}}"
)
_TITLES = {
    "J32": "CPU of a small request, µs",
    "S32": "CPU of a stream of 66 events, µs",
    "T500": "CPU of an event in one of 500 held streams, µs",
    "P100K": "CPU of a request with a prompt of 100 KB, µs",
}


def bars(title: str, note: str, figures: Mapping[str, float]) -> str:
    """An SVG of a bar for each figure, from the smallest decade on; those that begin with our name stand out."""
    low = 10 ** math.floor(math.log10(min(figures.values()) * 0.99))
    high = 10 ** math.ceil(math.log10(max(figures.values())))
    room = _WIDE - _LEFT - _RIGHT
    bottom = _TOP + _LINE * len(figures)

    def across(value: float) -> float:
        return room * math.log(value / low) / math.log(high / low)

    parts = [f'<text class="t" x="8" y="22">{escape(title)}</text>']
    decade = low
    while decade <= high * 1.001:
        x = _LEFT + across(decade)
        parts.append(f'<line class="rule" x1="{x:.0f}" x2="{x:.0f}" y1="{_TOP - 8}" y2="{bottom}"/>')
        parts.append(f'<text class="n" x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{plain(decade)}</text>')
        decade *= 10
    for place, (label, value) in enumerate(figures.items()):
        y = _TOP + place * _LINE
        kind = "own" if label.startswith(OURS) else "bar"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{max(2, across(value)):.0f}" height="20" rx="2"/>'
        )
        parts.append(f'<text x="{_LEFT + across(value) + 6:.0f}" y="{y + 15}">{plain(value)}</text>')
    parts.append(f'<text class="n" x="8" y="{bottom + 38}">{escape(note)}</text>')
    said = "; ".join(f"{label} {plain(value)}" for label, value in figures.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {bottom + 50}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc><style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def results(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def values(record: Mapping[str, Any]) -> dict[str, float]:
    return {row["label"]: row["value"] for row in record["rows"]}


def labels(found: Mapping[str, float]) -> list[str]:
    """Whoever has a figure of J32, the cheapest first."""
    named = [label.removeprefix("J32, ") for label in found if re.fullmatch(r"J32, [^,]+(, (?!p\d|per)[^,]+)?", label)]
    return sorted((label for label in named if label != BOOKS), key=lambda label: found[f"J32, {label}"])


def circumstances(record: Mapping[str, Any]) -> str:
    return f"{record['machine']}; commit {record['commit']}; one core each, medians of three runs, logarithmic scale"


def gateway(record: Mapping[str, Any]) -> str:
    """The charts, written beside the page, and the table's text."""
    found = values(record)
    pictures = []
    for shape, title in _TITLES.items():
        figures = {label: found[f"{shape}, {label}"] for label in labels(found) if f"{shape}, {label}" in found}
        if figures:
            name = f"speed-{shape.lower()}.svg"
            (PAGE.parent / name).write_text(bars(title, circumstances(record), figures), "utf-8")
            pictures.append(f"![{title}]({name})")
    shapes = [shape for shape in SHAPES if shape != "C1"]
    heads = ["", *shapes, "J32 × nginx", "J32 /s", "p99 ms", "T500 gap p99 ms", "added ms", "RSS MB", "start s"]
    lines = []
    for label in [*labels(found), BOOKS]:
        cells = [found.get(f"{shape}, {label}") for shape in shapes]
        reference = found.get(f"J32, {REFERENCE}")
        cells.append(cells[0] / reference if cells[0] and reference and label != BOOKS else None)
        wanted = (f"J32, {label}, per second", f"J32, {label}, p99 ms", f"T500, {label}, gap p99 ms")
        cells += [
            found.get(one) for one in (*wanted, f"C1, {label}, added ms p50", f"{label}, RSS MB", f"{label}, start s")
        ]
        name = label + (f" {record['peers'][label]}" if label in record["peers"] else "")
        lines.append([f"**{name}**" if label == OURS else name, *("–" if one is None else plain(one) for one in cells)])
    goals = table(["to reach", "measured", "floor", "aim", "met"], goal_lines(record["goals"]))
    skipped = "".join(f"\n\nNot measured: {what} ({why})." for what, why in record["skipped"].items())
    where = circumstances(record).rpartition(",")[0]
    return "\n\n".join(["\n".join(pictures), table(heads, lines), goals, f"{where}.{skipped}"])


def rows(record: Mapping[str, Any]) -> str:
    lines = [
        [row["label"], plain(row["value"]), f"{row['ratio']:g} × {row['to']}" if row["to"] else ""]
        for row in record["rows"]
    ]
    return table(["", record["unit"], ""], lines)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown, figures to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of `name`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE.name} has no place for {name}.")
    return pattern.sub(lambda found: found[1] + text + found[2], page)


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("gateway", "streams", "startup", "memory", "rating"):
        record = results(name)
        if record is not None:
            page = put(page, name, gateway(record) if name == "gateway" else rows(record))
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
