"""The data of genai-prices in its shapes: plain, tiers, dates, hours, batches."""

import sys
from dataclasses import dataclass
from datetime import date, time, timezone
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from steelyard.imports.genai_prices import genai_prices, installed_data
from steelyard.imports.litellm_prices import Asked
from steelyard.imports.price_text import Read
from steelyard.kernel.errors import StartError

ASKED = Asked("", "2026-11-27T00:00:00Z", "2026-11-27")
FIRST, SECOND = {"input_mtok": Decimal("0.15"), "output_mtok": Decimal("0.6")}, {"input_mtok": 2, "output_mtok": 8}


def read(prices: object, **more: object) -> Read:
    model = {"id": "m", "prices": prices} | more
    return genai_prices([{"id": "v", "pricing_urls": ["https://v.example"], "models": [model]}], ASKED)


def starting(day: str, prices: dict[str, Any]) -> dict[str, Any]:
    return {"constraint": {"start_date": day}, "prices": prices}


def hourly(begin: str, end: str, prices: dict[str, Any]) -> dict[str, Any]:
    return {"constraint": {"start_time": begin, "end_time": end}, "prices": prices}


def test_prices_per_million_stay_as_they_are() -> None:
    (entry,) = read(FIRST | {"cache_read_mtok": Decimal("0.0030"), "cache_write_mtok": Decimal("0.2")}).entries
    assert entry.prices == {"input": "0.15", "cached_input": "0.003", "cache_write": "0.2", "output": "0.6"}
    assert (entry.vendor, entry.source) == ("v", "genai-prices, https://v.example, read 2026-11-27")


def test_tiers_are_bands() -> None:
    tiered = {"base": 1, "tiers": [{"start": 200_000, "price": 2}, {"start": 300_000, "price": 3}]}
    (entry,) = read(FIRST | {"input_mtok": tiered}).entries
    assert [(when.condition, when.prices) for when in entry.whens] == [
        ({"input_over": 300_000}, {"cached_input": "3", "input": "3"}),
        ({"input_over": 200_000}, {"cached_input": "2", "input": "2"}),
    ]


def test_only_what_counts_now_and_what_begins_later() -> None:
    listed = [{"prices": FIRST}, starting("2026-09-10", SECOND), starting("2027-01-01", FIRST)]
    assert [(one.effective_from[:10], one.prices["input"]) for one in read(listed).entries] == [
        ("2026-09-10", "2"),
        ("2027-01-01", "0.15"),
    ]


def test_before_every_date_the_first_prices_count() -> None:
    assert [one.prices["input"] for one in read([starting("2027-01-01", SECOND)]).entries] == ["2", "2"]


def test_of_the_hours_the_last_one_of_the_data_is_the_first_of_ours() -> None:
    listed = [{"prices": FIRST}, hourly("01:00:00Z", "04:00:00Z", SECOND), hourly("22:00:00Z", "00:30:00Z", SECOND)]
    found = read(listed)
    (entry,) = found.entries
    assert [when.condition["hours"] for when in entry.whens] == [["22:00-24:00", "00:00-00:30"], ["01:00-04:00"]]
    assert entry.whens[0].prices == {"cached_input": "2", "input": "2", "output": "8"}
    assert "no weekdays and no holidays" in found.left[0].why


def test_batches_take_what_they_do_not_name_from_the_others() -> None:
    variants = [
        {"when": {"processing": "batch"}, "prices": {"input_mtok": 1}, "constraint": {"start_date": "2026-10-14"}},
        {"when": {"processing": "flex"}, "prices": {"input_mtok": 1}},
    ]
    found = read(SECOND, price_variants=variants)
    assert [(one.tier, one.prices["input"], one.prices["output"]) for one in found.entries] == [
        ("", "2", "8"),
        ("batch", "1", "8"),
    ]
    assert "processing=flex" in found.left[0].why


def test_what_cannot_be_carried_is_told() -> None:
    found = genai_prices(
        [
            {
                "id": "v",
                "models": [
                    {"id": "calls", "prices": {"requests_kcount": 5}},
                    {"id": "thirds", "prices": FIRST | {"cache_write_mtok": Decimal("0.0833333333")}},
                    {"prices": FIRST},
                    {"id": "sound", "prices": FIRST | {"input_audio_mtok": 3}},
                ],
            }
        ],
        ASKED,
    )
    told = {left.what: left.why for left in found.left}
    assert [one.model for one in found.entries] == ["sound"]
    assert "no price per prompt token" in told["v/calls"]
    assert "cache_write_mtok: 0.0833333333 per 1M" in told["v/thirds"]
    assert "shape" in told["v/None"]
    assert "input_audio_mtok" in told["v/sound"]


class ModelPrice:
    """As the package has it: prices as attributes."""

    def __init__(self, **prices: Any) -> None:
        vars(self).update(prices)


@dataclass
class Dated:
    start_date: date


@dataclass
class Timed:
    start_time: time
    end_time: time


@dataclass
class Conditional:
    prices: ModelPrice
    constraint: Dated | Timed | None = None


@dataclass
class Vendor:
    id: str
    models: list[Any]
    pricing_urls: list[str] | None = None


@dataclass
class Info:
    id: str
    prices: Any
    price_variants: Any = None


def test_the_installed_package_is_read_like_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("genai_prices.data")
    at = time(1, 0, tzinfo=timezone.utc)  # noqa: UP017 - as its data has it
    price = [
        Conditional(ModelPrice(**FIRST, cache_read_mtok=None), Dated(date(2026, 9, 10))),
        Conditional(ModelPrice(**FIRST), Timed(at, at.replace(hour=4))),
    ]
    module.providers = [Vendor("v", [Info("m", price)])]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "genai_prices", ModuleType("genai_prices"))
    monkeypatch.setitem(sys.modules, "genai_prices.data", module)
    (entry,) = genai_prices(installed_data(), ASKED).entries
    assert (entry.effective_from, entry.prices["input"]) == ("2026-09-10T00:00:00Z", "0.15")
    assert entry.whens[0].condition == {"zone": "UTC", "hours": ["01:00-04:00"]}


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    with pytest.raises(StartError, match="--file"):
        installed_data()
