"""Ratios of one-api and new-api as prices: exactly, or not at all."""

import json
from typing import Any

import pytest

from steelyard.imports.amounts import Unfit, exact_json, nearest_pico
from steelyard.imports.ratios import Ratios, nano_of_quota, prices_of, read_ratios
from steelyard.kernel.errors import CallerError


def ratios(of_new_api: bool = True, pricing: object = None, **options: Any) -> Ratios:
    rows = [{"key": key, "value": json.dumps(value)} for key, value in options.items()]
    return read_ratios(rows, exact_json(json.dumps(pricing), "p"), of_new_api=of_new_api)


OWN = {"ModelRatio": {"m": 0.25}, "CompletionRatio": {"m": 4}, "CacheRatio": {"m": 0.1}}


def test_a_ratio_of_one_is_two_dollars_a_million() -> None:
    assert prices_of(ratios(**OWN), "m", "text") == {
        "input": "0.5",
        "cached_input": "0.05",
        "cache_write": "0.625",
        "output": "2",
    }


def test_one_api_knows_no_caches() -> None:
    found = prices_of(ratios(False, ModelRatio={"m": 1}, CompletionRatio={"m": 2}), "m", "text")
    assert found == {"input": "2", "cached_input": "2", "output": "4"}


def test_the_group_default_and_another_quota_per_dollar_count() -> None:
    found = ratios(**OWN, GroupRatio={"default": 2, "vip": 1}, QuotaPerUnit=1_000_000)
    assert prices_of(found, "m", "embedding") == {"input": "0.5"}
    with pytest.raises(CallerError, match="whole number"):
        ratios(QuotaPerUnit=0.5)


def test_thirds_have_no_place_unless_they_are_rounded() -> None:
    found = ratios(False, ModelRatio={"m": 0.25}, CompletionRatio={"m": 1.3333333333333333})
    with pytest.raises(Unfit, match=r"0\.66666666666666665 per 1M tokens .* nearest they keep is 0\.666667"):
        prices_of(found, "m", "text")
    assert prices_of(found, "m", "text", nearest_pico)["output"] == "0.666667"


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5", "o3-mini", "gemini-2.5-pro"])
def test_what_may_stand_in_new_apis_code_is_not_guessed(model: str) -> None:
    table = {"ModelRatio": {model: 1}, "CompletionRatio": {model: 2}, "CacheRatio": {model: 0.5}}
    with pytest.raises(Unfit, match="--pricing"):
        prices_of(ratios(**table), model, "text")
    row = {"model_name": model, "quota_type": 0, "model_ratio": 1, "completion_ratio": 5, "cache_ratio": 0.1}
    found = prices_of(ratios(pricing={"data": [row]}, **table), model, "text")
    assert (found["output"], found["cached_input"]) == ("10", "0.2")
    assert prices_of(ratios(False, **table), model, "text")["output"] == "4", "one-api's options go first"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "no ratio for it"),
        (OWN | {"CompletionRatio": {}}, "completion ratio"),
        ({"ModelRatio": {"m": 1}, "CompletionRatio": {"m": 1}}, "cache ratios"),
        (OWN | {"ModelPrice": {"m": 0.1}}, "per call"),
        (OWN | {"billing_setting.billing_mode": {"m": "tiered_expr"}}, "expression"),
        (OWN | {"ModelRatio": {"m": "many"}}, "no number"),
        (OWN | {"CompletionRatio": {"m": None}}, "no number"),
    ],
)
def test_what_cannot_be_carried(options: dict[str, Any], why: str) -> None:
    with pytest.raises(Unfit, match=why):
        prices_of(ratios(**options), "m", "text")


def test_what_is_free_stays_an_explicit_zero() -> None:
    found = ratios(**OWN | {"ModelRatio": {"m": 0}})
    assert set(prices_of(found, "m", "text").values()) == {"0"}


def test_answers_that_are_none() -> None:
    with pytest.raises(CallerError, match="/api/pricing"):
        ratios(pricing={"error": "no"})
    with pytest.raises(CallerError, match="ModelRatio"):
        read_ratios([{"key": "ModelRatio", "value": "{"}], None, of_new_api=True)


def test_quota_is_money() -> None:
    assert nano_of_quota(500_000, 500_000) == 10**9
    assert nano_of_quota(1, 500_000) == 2000
    assert nano_of_quota(1, 300_000) == 3333
