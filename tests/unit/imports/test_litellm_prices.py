"""LiteLLM's price table in the shapes it has: plain, cached, bands, tiers, off-peak hours, batches."""

import json
import tomllib
from typing import Any

from steelyard.imports.amounts import exact_json
from steelyard.imports.litellm_prices import Asked, litellm_prices
from steelyard.imports.price_text import COST, PRICE, PriceEntry, Read, one_price_each, price_text

ASKED = Asked("", "2026-11-27T00:00:00Z", "2026-11-27")


def read(asked: Asked = ASKED, **rows: dict[str, Any]) -> Read:
    text = json.dumps({name: {"litellm_provider": "v", "mode": "chat"} | row for name, row in rows.items()})
    return litellm_prices(exact_json(text, "table"), asked)


def only(found: Read) -> PriceEntry:
    (entry,) = found.entries
    return entry


PLAIN = {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07}


def test_prices_per_token_become_prices_per_million() -> None:
    entry = only(read(m=PLAIN | {"cache_read_input_token_cost": 3e-09, "source": "https://v.example/prices"}))
    assert entry.prices == {"input": "0.15", "cached_input": "0.003", "output": "0.6"}
    assert (entry.vendor, entry.model, entry.currency) == ("v", "m", "USD")
    assert entry.source == "LiteLLM's price table, https://v.example/prices, read 2026-11-27"


def test_without_a_price_for_cached_tokens_they_cost_what_others_cost() -> None:
    assert only(read(m=PLAIN)).prices["cached_input"] == "0.15"


def test_bands_are_of_the_whole_request_the_highest_first() -> None:
    row = {"input_cost_per_token_above_200k_tokens": 3e-07, "output_cost_per_token_above_200k_tokens": 9e-07}
    entry = only(read(m=PLAIN | row | {"input_cost_per_token_above_272k_tokens": 4e-07}))
    assert [(when.name, when.condition, when.prices) for when in entry.whens] == [
        ("> 272k", {"input_over": 272_000}, {"cached_input": "0.4", "input": "0.4"}),
        ("> 200k", {"input_over": 200_000}, {"cached_input": "0.3", "input": "0.3", "output": "0.9"}),
    ]


def test_tiers_with_another_price_of_reasoning() -> None:
    tiers = [
        {"range": [32000.0, 128000.0], "input_cost_per_token": 2.4e-06, "output_cost_per_token": 1.2e-05},
        {"range": [0, 32000.0], "input_cost_per_token": 1.2e-06, "output_cost_per_token": 6e-06}
        | {"output_cost_per_reasoning_token": 4e-06},
    ]
    entry = only(read(m={"tiered_pricing": tiers}))
    assert entry.prices == {"input": "1.2", "cached_input": "1.2", "output": "6", "reasoning": "4"}
    assert [(when.condition, when.prices) for when in entry.whens] == [
        ({"input_over": 32_000}, {"cached_input": "2.4", "input": "2.4", "output": "12"})
    ]


def off_peak(**more: object) -> dict[str, Any]:
    windows = [
        {"hours_utc": ["00:00-01:00", "10:00-00:00"], "weekdays": [1, 5]},
        {"hours_utc": "00:00-00:00", "weekdays": [6, 7]},
    ]
    return PLAIN | {"off_peak_pricing": {"input_cost_per_token": 7.5e-08, "windows": windows} | more}


def test_off_peak_hours_by_weekday() -> None:
    found = read(m=off_peak())
    assert [(when.name, when.condition, when.prices) for when in only(found).whens] == [
        ("off-peak 1", {"zone": "UTC", "days": ["mon", "fri"], "hours": ["00:00-01:00", "10:00-24:00"]}, PRICES_OFF),
        ("off-peak 2", {"zone": "UTC", "days": ["sat", "sun"]}, PRICES_OFF),
    ]
    assert any("no holidays" in left.why for left in found.left)


PRICES_OFF = {"cached_input": "0.075", "input": "0.075"}


def test_a_price_for_cached_tokens_stands_in_a_band_that_names_none() -> None:
    row = {"cache_read_input_token_cost": 3e-09, "input_cost_per_token_above_200k_tokens": 3e-07}
    assert [when.prices for when in only(read(m=PLAIN | row)).whens] == [{"input": "0.3"}]


def test_hours_of_utc_move_to_the_zone_of_the_weekdays() -> None:
    first = only(read(m=off_peak(weekday_timezone="Asia/Shanghai"))).whens[0]
    assert first.condition["zone"] == "Asia/Shanghai"
    assert first.condition["hours"] == ["08:00-09:00", "18:00-24:00", "00:00-08:00"]
    (left,) = read(m=off_peak(weekday_timezone="Europe/Berlin")).left
    assert "summer time" in left.why


def test_batches_are_a_tier_of_the_price_book_only() -> None:
    batch = {"input_cost_per_token_batches": 7.5e-08, "output_cost_per_token_batches": 3e-07}
    found = read(m=PLAIN | batch)
    assert [(entry.tier, entry.prices["input"]) for entry in found.entries] == [("", "0.15"), ("batch", "0.075")]
    written = tomllib.loads(price_text(found.entries, PRICE) + price_text(found.entries, COST))
    assert [entry.get("tier") for entry in written["price"]] == [None, "batch"]
    assert [entry["upstream"] for entry in written["cost"]] == ["v"]


def test_a_model_that_only_reads_has_a_price_of_its_prompt() -> None:
    row = {"mode": "embedding", "input_cost_per_token": 2e-08, "output_cost_per_token": 0.0}
    assert only(read(m=row)).prices == {"input": "0.02"}


def test_what_is_free_is_an_explicit_zero() -> None:
    row = {"input_cost_per_token": 0, "output_cost_per_token": 0.0}
    assert only(read(m=row)).prices == {"input": "0", "cached_input": "0", "output": "0"}


def test_what_cannot_be_carried_is_told() -> None:
    found = read(
        pictures={"mode": "image_generation", "output_cost_per_image": 0.04},
        noise={"input_cost_per_token": 1.6000000000000001e-06, "output_cost_per_token": 1e-06},
        seconds={"input_cost_per_second": 0.1},
        wrong={"tiered_pricing": [{"range": 7}]},
        sound=PLAIN | {"input_cost_per_audio_token": 1e-06, "input_cost_per_token_priority": 3e-07},
    )
    told = {left.what: left.why for left in found.left}
    assert only(found).model == "sound"
    assert "image_generation" in told["pictures"]
    assert "more decimals than the books keep" in told["noise"]
    assert "no price per prompt token" in told["seconds"]
    assert "not by prompt tokens" in told["wrong"]
    assert "input_cost_per_audio_token, input_cost_per_token_priority" in told["sound"]


def test_one_provider_without_its_prefix_and_without_repeats() -> None:
    table = {
        "v/m": {"litellm_provider": "v"} | PLAIN,
        "m": {"litellm_provider": "v"} | PLAIN,
        "w/m": {"litellm_provider": "w"} | PLAIN,
        "sample_spec": {"litellm_provider": "v"} | PLAIN,
    }
    found = litellm_prices(exact_json(json.dumps(table), "table"), ASKED._replace(provider="v"))
    assert (only(found).model, found.left) == ("m", ())


def test_names_are_quoted() -> None:
    entry = only(read(m=PLAIN | {"source": 'a "b"\n[[cost]]\\'}))
    (written,) = tomllib.loads(price_text([entry], COST))["cost"]
    assert written["source"] == entry.source


def test_in_the_price_book_a_model_has_one_price() -> None:
    dearer = PLAIN | {"input_cost_per_token": 2e-07}
    table = {f"{name}/m": {"litellm_provider": name} | row for name, row in (("v", PLAIN), ("w", PLAIN), ("x", dearer))}
    found = one_price_each(litellm_prices(exact_json(json.dumps(table), "table"), ASKED).entries)
    assert only(found).vendor == "v"
    assert [left.what for left in found.left] == ["price of x/m"], "the same price twice is no matter"
