"""`steelyard route explain`: which offer would be asked, and what each has for and against it."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.show import Column, Row, Show, count, short_moment, words
from steelyard.gateway.figures import moment_ns
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.money import money_from_nano

_WON = {
    "only": "it is the only offer that can be asked",
    "pinned": "it is pinned to the first place",
    "cost": "it is expected to cost less than the next one",
    "speed": "it is expected to answer before the next one",
    "cache": "it is expected to hold most of the prompt in its cache",
    "load": "it has done less than its share, or holds more of the prompt",
    "order": "nothing speaks for another one; the catalog's order, health and weights decide",
}
_LEFT_OUT = {"not_sold": "no cost tariff, rate or ability for this, or pinned elsewhere"}


def _latency(title: str, median: str, p95: str, unit: str) -> Column:
    def cell(row: Row) -> str:
        return f"{row[median]:,} / {row[p95]:,} {unit}" if row.get(median) else "–"

    return Column(title, cell, right=True)


def _permille(title: str, name: str) -> Column:
    return Column(title, lambda row: "–" if row.get(name) is None else f"{row[name] / 10:.0f} %", right=True)


def _money(title: str, name: str) -> Column:
    def cell(row: Row) -> str:
        return "–" if row.get(name) is None else money_from_nano(row[name], row["currency"])

    return Column(title, cell, right=True)


def _health(row: Row) -> str:
    if "breaker" not in row:
        return "–"
    behind = ", failed last" if row.get("failures") else ""
    failing = f", {row['error_permille'] / 10:.0f} % errors" if row["error_permille"] else ""
    return f"{row['breaker']}{behind}{failing}, {row['in_flight']} in flight"


_OFFERS = (
    Column("Place", lambda row: str(row["rank"] or "–"), right=True),
    words("Upstream", "upstream"),
    words("Model there", "upstream_model"),
    count("Score", "score"),
    _money("Cost", "cost_nano"),
    _money("Margin", "margin_nano"),
    _latency("First token p50 / p95", "first_token_ms", "first_token_p95_ms", "ms"),
    _latency("Token p50 / p95", "token_us", "token_p95_us", "µs"),
    _permille("Cached", "affinity"),
    count("Load", "strain"),
    count("Weight", "weight"),
    Column("Health", _health),
    Column("Left out", lambda row: _LEFT_OUT.get(row["left_out"], row["left_out"]) or "–"),
)


@click.command(
    "explain",
    epilog=examples(
        "steelyard route explain deepseek-flash",
        "steelyard route explain glm-5 --prompt ./long.txt --key 7",
        "steelyard route explain deepseek-flash --at 2026-11-27T10:30:00+08:00",
    ),
)
@click.argument("model")
@click.option("--prompt", metavar="FILE|TEXT", help="What would be asked: a file's text, or a text.")
@click.option("--key", metavar="ID", type=int, help="Whose rules count: this key's.")
@click.option("--at", metavar="WHEN", help="By the prices and costs of this moment (default: now).")
@click.option("--max-tokens", type=click.IntRange(1), help="Output tokens that would be asked for.")
@at_desk
def route_explain(
    desk: Desk, show: Show, /, model: str, prompt: str | None, at: str | None, **more: int | None
) -> None:
    """Which offer of MODEL a worker would ask now, and what each has for and against it. Nobody is asked."""
    asked: dict[str, Any] = {"model": model} | {name: value for name, value in more.items() if value is not None}
    if prompt is not None:
        asked["prompt"] = _text(prompt)
    if at is not None:
        asked["at_ns"] = moment_ns(at, desk.clock.now_ns(), "at")
    told = desk.command("route.explain", asked)
    if show.as_json:
        show.json(told)
        return
    show.rows([row | {"currency": told["currency"]} for row in told["offers"]], _OFFERS, f"{model} is offered nowhere.")
    for line in _lines(told):
        show.line(line)


def _text(prompt: str) -> str:
    """A file's text where there is such a file."""
    try:
        path = Path(prompt)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else prompt
    except (OSError, ValueError):  # too long to be a name
        return prompt


def _lines(told: Row) -> list[str]:
    lines = []
    if told["winner"]:
        by = f", policy {told['policy']} by {told['decided_by']}" if told["policy"] else ""
        lines.append(f"{told['winner']} would be asked first{by}: {_WON.get(told['reason'], told['reason'])}.")
    if told["refused"]:
        lines.append(f"The request would be refused: {told['refused']}")
    if (used := told["expected"]) is not None:
        fresh, cached, output = used[0] + used[5], used[1], used[2] + used[6]
        price = money_from_nano(told["price_nano"], told["currency"])
        lines.append(
            f"Expected: {fresh + cached:,} prompt tokens, {cached:,} of them from cache, {output:,} output; "
            f"the customer pays {price}."
        )
    seen = f"worker {told['worker']}" + (f", one of {told['workers']}," if told["workers"] > 1 else "")
    lines.append(f"As {seen} sees it, at the prices of {short_moment(told['at_ns'] // NS_PER_MS * NS_PER_MS)}.")
    return lines
