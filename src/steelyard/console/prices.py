"""The page of prices: what every model is sold at and costs now, when that changes, and the vendors behind it.

Reads the snapshot, and from the books only what may be seen of a vendor's key. Decides nothing: which price a request
pays is told by rating.
"""

import os
from collections.abc import Iterable

from starlette.responses import Response

from steelyard.catalog.credentials import Kept, credentials
from steelyard.catalog.price_file import COST, PRICE
from steelyard.catalog.standing import PriceRow, Standing, standing_at
from steelyard.console import figures
from steelyard.console.i18n import Words
from steelyard.console.visits import Visit
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.records import Snapshot
from steelyard.kernel.tariff import DAYS, Condition
from steelyard.upstream.sealed import key_variable

_METERS = (
    *("input", "cached_input", "cache_write", "output", "reasoning", "reused_input", "reused_output"),
    *("cpu", "gpu", "energy"),
)
_OF_ENGINES = {"cpu": " / h", "gpu": " / h", "energy": " / kWh"}
_UNITS = {1_000_000: "1M", 1_000: "1K", 1: "1"}


def show(visit: Visit) -> Response:
    house, words = visit.desk.house, visit.words
    snapshot, now_ns = house.snapshot, house.clock.now_ns()
    with house.books() as connection:
        kept = credentials(connection)
    view = {
        "at": figures.moment(now_ns),
        "models": [_model(words, snapshot, snapshot.models[name], now_ns) for name in sorted(snapshot.models)],
        "vendors": _vendors(visit, snapshot, kept),
        "command": "steelyard vendor",
    }
    return visit.page("prices.html", view=view)


def _model(words: Words, snapshot: Snapshot, model: Model, now_ns: int) -> dict[str, object]:
    blocks = [
        _block(words, one, words("prices.tier", tier=one.tier) if one.tier else words("prices.price"))
        for one in standing_at(PRICE, snapshot.prices.get(model.name, ()), now_ns)
    ]
    for offer in model.offers:
        title = words("prices.cost", upstream=offer.upstream)
        blocks += [_block(words, one, title) for one in _costs(snapshot, offer, now_ns)]
    return {"name": model.name, "blocks": blocks, "sold": model.name in snapshot.prices}


def _costs(snapshot: Snapshot, offer: Offer, now_ns: int) -> tuple[Standing, ...]:
    """What the offer costs: its own tariff, else the one for all of its upstream."""
    versions = snapshot.costs.get(offer.upstream, ())
    own = [one for one in versions if one.model == offer.upstream_model]
    return standing_at(COST, own or [one for one in versions if not one.model], now_ns)


def _block(words: Words, one: Standing, title: str) -> dict[str, object]:
    meters = [meter for meter in _METERS if any(meter in row.prices for row in one.rows)]
    unit = words("prices.unit", currency=one.currency, per=_UNITS[one.per]) if one.per in _UNITS else one.currency
    return {
        "title": title,
        "unit": unit,
        "version": one.version,
        "since": figures.moment(one.effective_from_ns),
        "next": figures.moment(one.next_ns) if one.next_ns else "",
        "marginal": one.marginal,
        "source": one.source,
        "link": one.source.split(" ")[0].rstrip(",") if one.source.startswith("https://") else "",
        "heads": [words(f"meter.{meter}") + _OF_ENGINES.get(meter, "") for meter in meters],
        "rows": [_row(words, row, meters, alone=len(one.rows) == 1) for row in one.rows],
    }


def _row(words: Words, row: PriceRow, meters: Iterable[str], *, alone: bool) -> dict[str, object]:
    state = {True: "prices.now", None: "prices.request", False: "prices.later"}[row.counts]
    return {
        "name": row.variant or words("prices.always" if alone else "prices.otherwise"),
        "when": _when(words, row.when) if row.when else "",
        "state": state.removeprefix("prices."),
        "state_text": words(state),
        "cells": [row.prices.get(meter, figures.NONE) for meter in meters],
    }


def _when(words: Words, when: Condition) -> str:
    """The conditions as a person says them."""
    said = []
    if when.days == DAYS[:5]:
        said.append(words("prices.weekdays"))
    elif when.days:
        said.append(", ".join(words(f"day.{day}") for day in when.days))
    if when.hours:
        hours = ", ".join(f"{_clock(start)}–{_clock(end)}" for start, end in when.hours)
        said.append(words("prices.hours", hours=hours, zone=when.zone))
    if when.not_on_holidays:
        said.append(words("prices.no_holidays", country=when.calendar))
    if when.thinking is not None:
        said.append(words("prices.thinking" if when.thinking else "prices.not_thinking"))
    for over, up_to, key in (
        (when.input_over, when.input_up_to, "prices.prompt_band"),
        (when.output_over, when.output_up_to, "prices.output_band"),
    ):
        if over is not None or up_to is not None:
            above = f"> {over:,} " if over is not None else ""
            said.append(words(key, band=above + (f"≤ {up_to:,}" if up_to is not None else "")))
    return " · ".join(said)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _vendors(visit: Visit, snapshot: Snapshot, kept: dict[str, Kept]) -> list[dict[str, object]]:
    words = visit.words
    offers: dict[str, list[Offer]] = {}
    for model in snapshot.models.values():
        for offer in model.offers:
            offers.setdefault(offer.upstream, []).append(offer)
    return [
        {
            "name": name,
            "kind": offers[name][0].kind if name in offers else figures.NONE,
            "models": figures.count(len(offers.get(name, ()))),
            "currency": ", ".join(sorted({one.currency for one in snapshot.costs.get(name, ())})) or figures.NONE,
            "key": _key(words, name, kept.get(name)),
            "health": _health(words, [visit.desk.house.left_out(one) for one in offers.get(name, ())]),
        }
        for name in sorted({*offers, *kept})
    ]


def _key(words: Words, upstream: str, kept: Kept | None) -> str:
    """Where the key of an upstream is; a worker takes that of its environment first."""
    if os.environ.get(key_variable(upstream), "").strip():
        return words("prices.key_environment")
    if kept is None:
        return words("prices.key_none")
    return words("prices.key_set") if kept.shown == "set" else words("prices.key_shown", shown=kept.shown)


def _health(words: Words, reasons: list[str]) -> str:
    """Of an upstream's offers: whether they are asked, or how many are left alone and why."""
    why = list(dict.fromkeys(reason for reason in reasons if reason))
    if not why:
        return words("prices.health_well" if reasons else "prices.health_none")
    said = ", ".join(words.either(f"fault.{reason}", reason) for reason in why)
    return words("prices.health_some", left=sum(map(bool, reasons)), count=len(reasons), why=said)
