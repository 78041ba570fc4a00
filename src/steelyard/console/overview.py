"""The overview: what today earned, cost and kept, the last hour and the last thirty days, and who and what made it.

Turns the overview report into words, figures and charts. Computes nothing the report does not say but sums for show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from steelyard.console import figures
from steelyard.console.charts import Column, beam, column_chart
from steelyard.console.i18n import Words
from steelyard.console.visits import ROOT, Visit
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.quantities import source_of
from steelyard.reports.overview import Overview, Point, Series, overview
from steelyard.reports.sums import Group, Totals

_LABELS = 5  # on the time axis


def show(visit: Visit) -> Response:
    return visit.page("overview.html", view=_view(visit))


def live(visit: Visit) -> Response:
    """The fragment that live.js puts in place of the page's parts."""
    return fragment(visit, "overview_live.html", _view(visit))


def fragment(visit: Visit, template: str, view: object) -> Response:
    values = {"t": visit.words, "root": ROOT, "view": view}
    return visit.dressed(HTMLResponse(visit.desk.look.render(template, values)))


def curl(visit: Visit) -> str:
    """A request a newcomer can paste, against the address he reached us at."""
    models = visit.desk.house.snapshot.models.values()
    model = min((model.name for model in models if model.writes_text), default="MODEL")
    address = f"{visit.scheme}://{visit.request.url.netloc}/v1/chat/completions"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines = (
        f"curl {address}",
        "-H 'Authorization: Bearer YOUR_KEY'",
        "-H 'Content-Type: application/json'",
        f"-d '{body}'",
    )
    return " \\\n  ".join(lines)


def _view(visit: Visit) -> dict[str, object]:
    now_ns = visit.desk.house.clock.now_ns()
    with visit.desk.house.books() as connection:
        report = overview(connection, now_ns)
    t, date = visit.words, _stamp(now_ns, "%Y-%m-%d")
    if report.requests_ever == 0:
        return {"empty": True, "date": date, "curl": curl(visit)}
    return {
        "empty": False,
        "date": date,
        "balances": [_balance(t, one) for one in report.today],
        "tiles": _tiles(t, report.today, report.energy_output),
        "panels": _panels(t, report),
        "boards": [
            _board(t, "model", report.models_today, report.models_left_out),
            _board(t, "tenant", report.tenants_today, report.tenants_left_out),
        ],
    }


def _panels(t: Words, report: Overview) -> list["Panel"]:
    """Requests of all currencies together, money of each currency by itself."""
    panels = []
    for key, series, stamp in (("hour", report.last_hour, "%H:%M"), ("month", report.last_30_days, "%m-%d")):
        panels.append(_requests_panel(t, key, series, stamp))
        panels += [_money_panel(t, key, one, stamp) for one in series]
    return panels


def _balance(t: Words, total: Totals) -> dict[str, object]:
    spent_nano = total.charge_nano - total.margin_nano  # with what customers were not charged because of their holds
    revenue, cost = figures.amount(total.charge_nano, total.currency), figures.amount(spent_nano, total.currency)
    margin = figures.amount(total.margin_nano, total.currency)
    percent = figures.percent(total.margin_nano, total.charge_nano)
    told = t("overview.beam_desc", revenue=revenue.text, cost=cost.text, margin=margin.text)
    if total.margin_nano < 0:
        note = t("overview.margin_loss")
    elif total.charge_nano == 0:
        note = t("overview.margin_none")
    else:
        note = t("overview.margin_share", percent=percent)
    key = f"beam-{total.currency.lower()}"
    return {
        "currency": total.currency,
        "revenue": revenue,
        "cost": cost,
        "margin": margin,
        "percent": percent,
        "note": note,
        "beam": beam(key, t("overview.beam"), told, total.charge_nano, spent_nano),
    }


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the day with a second one under it."""

    name: str
    value: str
    note: str
    label: str = ""  # the key of its words


def _tiles(t: Words, today: Sequence[Totals], energy_output: int) -> list[Tile]:
    requests = sum(one.requests for one in today)
    cached = sum(one.cached_input + one.reused_input for one in today)
    prompt = sum(one.prompt for one in today)
    output = sum(one.generated for one in today)
    energy_uj, measured_uj = sum(one.energy_uj for one in today), sum(one.measured_uj for one in today)
    return [
        Tile(
            t("overview.requests"),
            figures.count(requests),
            t("overview.requests_note", tokens=figures.count(prompt + output)),
        ),
        Tile(
            t("overview.prompt"),
            figures.count(prompt),
            t("overview.cached", tokens=figures.count(cached), percent=figures.percent(cached, prompt)),
        ),
        Tile(
            t("overview.output"),
            figures.count(output),
            t("overview.output_note", tokens=figures.count(output // requests) if requests else figures.NONE),
        ),
        Tile(
            t("overview.energy"),
            figures.energy_per_token(energy_uj, energy_output),
            t("overview.energy_note", energy=figures.energy(energy_uj) if energy_uj else figures.NONE),
            label=figures.label_of(source_of(energy_uj, measured_uj)),
        ),
    ]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart with its axes, its sum and its table."""

    key: str
    kind: str
    title: str
    sum: str
    svg: Markup
    top: str
    middle: str
    bottom: str
    labels: list[str]
    heads: list[str]
    rows: list[list[str]]


def _requests_panel(t: Words, key: str, series: Sequence[Series], stamp: str) -> Panel:
    title = t(f"chart.{key}_requests")
    columns = []
    for same_moment in zip(*(one.points for one in series), strict=True):
        when, requests = _stamp(same_moment[0].start_ns, stamp), sum(point.requests for point in same_moment)
        said = t("chart.say_requests", when=when, requests=figures.count(requests))
        columns.append(Column(when, said, requests))
    total = figures.count(sum(column.bar for column in columns))
    highest = figures.count(max((column.bar for column in columns), default=0))
    told = t("chart.desc", title=title, columns=len(columns), top=highest, sum=total)
    chart = column_chart(f"{key}-requests", title, told, columns)
    return Panel(
        key=f"{key}-requests",
        kind="traffic",
        title=title,
        sum=t("chart.sum", sum=total),
        svg=chart.svg,
        top=figures.compact(chart.top),
        middle=figures.compact(chart.top // 2) if chart.top % 2 == 0 else "",
        bottom="0",
        labels=axis(columns),
        heads=[t(f"chart.when_{key}"), t("table.requests")],
        rows=[[c.label, figures.count(c.bar)] for c in reversed(columns) if c.bar],
    )


def _money_panel(t: Words, key: str, series: Series, stamp: str) -> Panel:
    title, currency = t(f"chart.{key}_money"), series.currency
    columns = [_money_column(t, point, currency, stamp) for point in series.points]
    revenue = figures.amount(sum(point.charge_nano for point in series.points), currency).text
    cost = figures.amount(sum(point.cost_nano for point in series.points), currency).text
    highest = figures.amount(max((point.charge_nano for point in series.points), default=0), currency).text
    told = t("chart.desc_money", title=title, columns=len(columns), top=highest, revenue=revenue, cost=cost)
    name = f"{key}-money-{currency.lower()}"
    chart = column_chart(name, title, told, columns)
    return Panel(
        key=name,
        kind="money-kind",
        title=title,
        sum=t("chart.sum_money", revenue=revenue, cost=cost),
        svg=chart.svg,
        top=figures.axis_money(chart.top, currency),
        middle=figures.axis_money(chart.top // 2, currency),
        bottom="0",
        labels=axis(columns),
        heads=[t(f"chart.when_{key}"), t("table.revenue"), t("table.cost"), t("overview.difference")],
        rows=[
            [c.label, *(figures.amount(nano, currency, 9).text for nano in (c.bar, c.line or 0, c.bar - (c.line or 0)))]
            for c in reversed(columns)
            if c.bar or c.line
        ],
    )


def _money_column(t: Words, point: Point, currency: str, stamp: str) -> Column:
    when = _stamp(point.start_ns, stamp)
    revenue, cost = figures.amount(point.charge_nano, currency), figures.amount(point.cost_nano, currency)
    said = t("chart.say_money", when=when, revenue=revenue.text, cost=cost.text)
    return Column(when, said, point.charge_nano, point.cost_nano)


def axis(columns: Sequence[Column]) -> list[str]:
    """A few labels, first and last always among them."""
    if len(columns) <= _LABELS:
        return [column.label for column in columns]
    return [columns[index * (len(columns) - 1) // (_LABELS - 1)].label for index in range(_LABELS)]


def _board(t: Words, kind: str, groups: Sequence[Group], left_out: int) -> dict[str, object]:
    rows = []
    for group in groups:
        totals = group.totals
        rows.append(
            {
                "name": group.name,
                "href": f"{ROOT}/requests?{urlencode({kind: group.name})}",
                "requests": figures.count(totals.requests),
                "revenue": figures.amount(totals.charge_nano, totals.currency, 6),
                "cost": figures.amount(totals.charge_nano - totals.margin_nano, totals.currency, 6),
                "margin": figures.amount(totals.margin_nano, totals.currency, 6),
                "percent": figures.percent(totals.margin_nano, totals.charge_nano),
            }
        )
    return {
        "key": f"{kind}s",
        "title": t(f"overview.{kind}s"),
        "head": t(f"table.{kind}"),
        "rows": rows,
        "more": t("overview.more", count=left_out) if left_out else "",
        "command": f"steelyard margin --by {kind}",
    }


def _stamp(ns: int, layout: str) -> str:
    return datetime.fromtimestamp(ns // NS_PER_S, UTC).strftime(layout)
