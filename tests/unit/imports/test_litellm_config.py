"""LiteLLM's configuration as a plan: offers, prices, routes; nothing secret is repeated."""

import tomllib
from typing import Any

import pytest

from steelyard.imports.exact_yaml import exact_yaml
from steelyard.imports.litellm_config import Read, litellm_plan
from steelyard.imports.model_facts import Assumed, Facts
from steelyard.imports.plan import Plan
from steelyard.kernel.errors import CallerError

TABLE = {
    "gpt-4o": {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_input_tokens": 128_000,
        "max_output_tokens": 16_384,
        "input_cost_per_token": "0.0000025",
        "output_cost_per_token": "0.00001",
        "cache_read_input_token_cost": "0.00000125",
    }
}
CONFIG = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: sk-secret-one, rpm: 60, temperature: 0.2}
  - model_name: cheap
    litellm_params:
      model: deepseek/deepseek-flash
      api_key: os.environ/DEEPSEEK_API_KEY
      input_cost_per_token: 1.5e-07
      output_cost_per_token: 0.000_000_6
    model_info: {max_input_tokens: 1000000, max_output_tokens: 8192}
  - model_name: own
    litellm_params: {model: hosted_vllm/Qwen/Qwen3-8B, api_base: "http://10.0.0.7:8000/v1"}
    tpm: 20_000
  - model_name: gpt-4o
    litellm_params: {model: gpt-4o, api_key: sk-secret-two}
router_settings:
  routing_strategy: latency-based-routing
  model_group_alias: {gpt-4: gpt-4o, hidden: {model: cheap, hidden: true}}
  fallbacks: [{gpt-4o: [cheap, own]}]
  redis_password: sk-secret-redis
general_settings: {master_key: sk-secret-master}
"""


def plan(text: str, table: dict[str, Any] = TABLE, **environment: str) -> Plan:
    facts = Facts(table, Assumed(131_072, 8192), "2026-11-27")
    how = Read(facts, environment, "2026-11-27T00:00:00Z", "2026-11-27")
    return litellm_plan(exact_yaml(text, "config"), how)


def payloads(found: Plan, op: str) -> list[dict[str, Any]]:
    return [step.payload for group in found.groups for step in group if step.op == op]


def books(found: Plan) -> dict[str, list[dict[str, Any]]]:
    read: dict[str, list[dict[str, Any]]] = {}
    for payload in payloads(found, "prices"):
        read |= tomllib.loads(payload["text"])
    return read


def told(found: Plan) -> dict[str, str]:
    return {left.what: left.why for left in found.left}


def test_deployments_are_offers_and_one_key_at_one_address_is_one_upstream() -> None:
    found = plan(CONFIG)
    offers = {(one["name"], one["upstream"]): one for one in payloads(found, "offer")}
    assert set(offers) == {("gpt-4o", "openai"), ("cheap", "deepseek"), ("own", "hosted-vllm"), ("gpt-4o", "openai-2")}
    first = offers["gpt-4o", "openai"]
    assert (first["kind"], first["address"], first["upstream_model"]) == (
        "openai",
        "https://api.openai.com/v1",
        "gpt-4o",
    )
    assert (first["context_tokens"], first["max_output_tokens"]) == (128_000, 16_384)
    assert offers["cheap", "deepseek"]["context_tokens"] == 1_000_000
    own = offers["own", "hosted-vllm"]
    assert (own["address"], own["upstream_model"]) == ("http://10.0.0.7:8000/v1", "Qwen/Qwen3-8B")
    assert (own["context_tokens"], own["max_output_tokens"]) == (131_072, 8192)


def test_what_a_request_cost_there_is_its_price_here_and_our_cost() -> None:
    read = books(plan(CONFIG))
    prices = {one["model"]: one for one in read["price"]}
    assert set(prices) == {"gpt-4o", "cheap"}
    assert [prices["gpt-4o"][meter] for meter in ("input", "cached_input", "output")] == ["2.5", "1.25", "10"]
    assert [prices["cheap"][meter] for meter in ("input", "cached_input", "output")] == ["0.15", "0.15", "0.6"]
    costs = {(one["upstream"], one["model"]): one["input"] for one in read["cost"]}
    assert costs == {
        ("openai", "gpt-4o"): "2.5",
        ("openai-2", "gpt-4o"): "2.5",
        ("deepseek", "deepseek-flash"): "0.15",
    }


ODD = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, input_cost_per_second: 4e-4}
  - model_name: long
    litellm_params: {model: openai/gpt-4o, input_cost_per_token: 0.000003, output_cost_per_token: 0.00001}
    model_info:
      {cache_creation_input_token_cost_above_1hr: 0.000006, input_cost_per_image: null, input_cost_per_second: 0}
"""


def test_a_price_that_no_meter_has_is_told_and_no_table_stands_in_for_it() -> None:
    found = plan(ODD)
    assert [(one["model"], one["input"]) for one in books(found)["price"]] == [("long", "3")]
    why = told(found)
    assert why["model_list 1 (gpt-4o)"] == "Carried without input_cost_per_second."
    assert why["cost of gpt-4o at openai"] == "it has no price per prompt token."
    assert why["model_list 2 (long)"] == "Carried without cache_creation_input_token_cost_above_1hr."


def test_bounds_aliases_fallbacks_and_policies() -> None:
    found = plan(CONFIG)
    assert payloads(found, "route.offer") == [
        {"model": "gpt-4o", "upstream": "openai", "rpm": 60},
        {"model": "own", "upstream": "hosted-vllm", "tpm": 20_000},
    ]
    assert payloads(found, "route.alias") == [
        {"name": "gpt-4", "model": "gpt-4o"},
        {"name": "hidden", "model": "cheap"},
    ]
    assert payloads(found, "route.set") == [
        {"model": "gpt-4o", "policy": "fastest"},
        {"model": "cheap", "policy": "fastest"},
        {"model": "own", "policy": "fastest"},
    ]


def test_keys_are_found_where_they_are_and_said_nowhere() -> None:
    found = plan(CONFIG, DEEPSEEK_API_KEY="sk-secret-three")
    assert found.credentials == {
        "openai": "sk-secret-one",
        "openai-2": "sk-secret-two",
        "deepseek": "sk-secret-three",
    }
    without = plan(CONFIG)
    assert "deepseek" not in without.credentials
    assert any("--from-env DEEPSEEK_API_KEY" in note for note in without.notes)
    for one in (found, without):
        assert "sk-secret" not in f"{one.notes}{one.left}{one.groups}"


def test_what_stays_behind_is_told() -> None:
    found = told(plan(CONFIG))
    assert "temperature" in found["model_list 1 (gpt-4o)"]
    assert found["router_settings"] == "Not carried over: redis_password."
    assert "where a key allows it" in found["fallbacks of gpt-4o"]
    assert "operator add" in found["general_settings"]
    assert "Nothing says" in found["price of own"] and "Load a cost book" in found["costs of hosted-vllm"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{model_name: '*', litellm_params: {model: 'openai/*'}}", "wildcard"),
        ("{model_name: m, litellm_params: {model: azure/x, api_base: 'https://a'}}", "azure has no adapter"),
        ("{model_name: m, litellm_params: {model: mystery}}", "is not told"),
        ("{model_name: m, litellm_params: {model: hosted_vllm/x}}", "no api_base"),
        ("{model_name: m, litellm_params: {model: openai/x, api_base: os.environ/BASE}}", "BASE, which is not set"),
        ("{model_name: m}", "shape"),
        ("nonsense", "shape"),
    ],
)
def test_what_cannot_be_an_offer(entry: str, why: str) -> None:
    found = plan(f"model_list: [{entry}]")
    assert payloads(found, "offer") == []
    assert any(why in sentence for sentence in told(found).values())


def test_deployments_that_cost_differently_have_no_one_price() -> None:
    entry = (
        "{{model_name: m, litellm_params: {{model: openai/x, api_key: {key}, "
        "input_cost_per_token: {price}, output_cost_per_token: 1e-06}}}}"
    )
    two = ", ".join(entry.format(key=key, price=price) for key, price in (("a", "1e-06"), ("b", "2e-06")))
    found = plan(f"model_list: [{two}]")
    assert "cost differently" in told(found)["price of m"]
    assert [one["input"] for one in books(found)["cost"]] == ["1", "2"]


def test_yaml_is_read_exactly_and_safely() -> None:
    read = exact_yaml("a: 1.5e-07\nb: 0.1\nc: .inf\nd: 2\ne: 1_000.5", "f")
    assert [str(read[name]) for name in "abcde"] == ["1.5E-7", "0.1", ".inf", "2", "1000.5"]
    for text in ("a: !!python/object/apply:os.system ['true']", "a: [", "\x00"):
        with pytest.raises(CallerError, match="safely"):
            exact_yaml(text, "f")


@pytest.mark.parametrize("text", ["[]", "model_list: 7", "model: x"])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(CallerError, match="no model_list"):
        plan(text)
