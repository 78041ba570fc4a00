"""Charts as SVG markup, drawn on the server from integers.

Pure functions. A chart stretches to its box (labels are HTML beside it), carries a title and a description for people
who cannot see it, and styles itself by classes only, because the pages forbid inline style. Knows no money.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_HEIGHT = 1000  # drawing units; the box decides the real size
_COLUMN = 100
_STEPS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class Column:
    """One moment: `bar` is drawn solid, `line` (optional) as a step on top; `say` is what a reader is told of it."""

    label: str
    say: str
    bar: int
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart and the value at its top edge (for the axis label)."""

    svg: Markup
    top: int


def nice_top(value: int) -> int:
    """The smallest of 1, 2, 3, 4, 5, 6, 8 × 10ⁿ that is not below `value`; 1 when there is nothing to show."""
    scale = 1
    while True:
        for step in _STEPS:
            if step * scale >= value:
                return step * scale
        scale *= 10


def column_chart(key: str, title: str, description: str, columns: Sequence[Column]) -> Chart:
    """Bars, and a stepped line where columns have one. `key` makes the ids unique within the page."""
    top = nice_top(max((max(c.bar, c.line or 0) for c in columns), default=0))
    width = max(1, len(columns)) * _COLUMN
    head = Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        'aria-labelledby="{key}-title {key}-desc"><title id="{key}-title">{title}</title>'
        '<desc id="{key}-desc">{description}</desc>'
    ).format(width=width, height=_HEIGHT, key=key, title=title, description=description)
    rules = Markup("").join(
        Markup('<line class="rule" x1="0" x2="{x}" y1="{y}" y2="{y}" vector-effect="non-scaling-stroke"/>').format(
            x=width, y=y
        )
        for y in (0, _HEIGHT // 2, _HEIGHT)
    )
    bars = Markup("").join(_column(index, column, top) for index, column in enumerate(columns))
    return Chart(Markup("").join([head, rules, bars, _step_line(columns, top), Markup("</svg>")]), top)


def _column(index: int, column: Column, top: int) -> Markup:
    height = _scaled(column.bar, top)
    return Markup(
        '<g class="column" data-say="{say}"><title>{say}</title>'
        '<rect class="hit" x="{left}" y="0" width="{column}" height="{full}"/>'
        '<rect class="bar" x="{x}" y="{y}" width="{width}" height="{height}"/></g>'
    ).format(
        say=column.say,
        left=index * _COLUMN,
        column=_COLUMN,
        full=_HEIGHT,
        x=index * _COLUMN + _COLUMN // 6,
        y=_HEIGHT - height,
        width=_COLUMN - 2 * (_COLUMN // 6),
        height=height,
    )


def _step_line(columns: Sequence[Column], top: int) -> Markup:
    if not any(column.line for column in columns):
        return Markup("")
    steps = [
        f"{'M' if index == 0 else 'L'}{index * _COLUMN} {_HEIGHT - _scaled(column.line or 0, top)}h{_COLUMN}"
        for index, column in enumerate(columns)
    ]
    return Markup('<path class="line" d="{d}" vector-effect="non-scaling-stroke"/>').format(d="".join(steps))


def _scaled(value: int, top: int) -> int:
    """Height in drawing units; a value that is not nothing stays visible."""
    if value <= 0:
        return 0
    return max(12, value * _HEIGHT // top)


def beam(key: str, title: str, description: str, revenue: int, cost: int) -> Markup:
    """The steelyard itself: a graduated beam of what was earned, the poise where the cost has eaten to.

    A loss pushes the poise to the far end. With nothing earned and nothing spent the poise rests at the pivot.
    """
    eaten = 1000 if revenue <= 0 < cost else 0 if revenue <= 0 else max(0, min(1000, cost * 1000 // revenue))
    state = "loss" if cost > revenue else "idle" if revenue <= 0 else "gain"
    notches = Markup("").join(
        Markup('<line class="notch" x1="{x}" x2="{x}" y1="{y}" y2="34"/>').format(x=i * 25, y=22 if i % 5 else 16)
        for i in range(41)
    )
    x = eaten
    return Markup(
        '<svg class="beam {state}" viewBox="-2 12 1004 68" role="img" aria-labelledby="{key}-title {key}-desc">'
        '<title id="{key}-title">{title}</title><desc id="{key}-desc">{description}</desc>{notches}'
        '<rect class="kept" x="0" y="34" width="1000" height="10" rx="5"/>'
        '<rect class="eaten" x="0" y="34" width="{width}" height="10" rx="5"/>'
        '<path class="poise" d="M{x} 44v8"/><path class="weight" d="M{left} 52h28l6 26h-40z"/></svg>'
    ).format(
        state=escape(state),
        key=key,
        title=title,
        description=description,
        notches=notches,
        width=max(5, x),
        x=x,
        left=min(max(x - 14, 6), 966),
    )
