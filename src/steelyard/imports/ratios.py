"""Prices as one-api and new-api keep them: ratios in their options, or new-api's own answer at /api/pricing.

Owns that a ratio of 1 is what QuotaPerUnit makes of it (USD 0.002 per 1K tokens), and which ratios stand only in their
code. What is not known here is refused, never guessed. Read from one-api (relay/billing/ratio, commit 0053521) and
new-api (setting/ratio_setting, commits 00f6587 and 19aca2d; relay/helper/price.go, commit 00a1c00).
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from steelyard.imports.amounts import MISSHAPEN, Rounding, Unfit, decimal_of, exact_json, exactly, per_million, product
from steelyard.imports.price_text import whole_prices
from steelyard.kernel.errors import CallerError, bad_request

QUOTA_PER_UNIT = 500_000
_CACHE_WRITE = Decimal("1.25")  # new-api's, for a model that has none of its own
_IN_CODE = re.compile(
    r"gpt-|chatgpt-|o1|o3|mistral-|gemini-|command|ERNIE-|llama2-70b-4096|llama3-8b-8192|llama3-70b-8192|.*claude-"
)
"""Names for which new-api has completion ratios in its code that go before those of its options."""
_EXPRESSION = "tiered_expr"
_NANO_PER_UNIT = 10**9


class Ratios(NamedTuple):
    """One system's. `per_unit` is how much quota a dollar is, `group` what every price is multiplied by."""

    options: Mapping[str, Mapping[str, Any]]
    listed: Mapping[str, Mapping[str, Any]]
    per_unit: int
    group: Decimal
    groups: Mapping[str, Decimal]
    of_new_api: bool


def read_ratios(rows: Iterable[Mapping[str, Any]], pricing: object, *, of_new_api: bool) -> Ratios:
    """From the rows of the table `options` and, of new-api, what GET /api/pricing answered. Raises CallerError."""
    texts = {str(row["key"]): str(row["value"]) for row in rows}
    options = {
        name: _mapping(texts[name], name)
        for name in ("ModelRatio", "CompletionRatio", "CacheRatio", "CreateCacheRatio", "ModelPrice", "GroupRatio")
        if texts.get(name)
    }
    if texts.get("billing_setting.billing_mode"):
        options["billing_mode"] = _mapping(texts["billing_setting.billing_mode"], "billing_mode")
    listed: dict[str, Mapping[str, Any]] = {}
    if pricing is not None:
        rows_of = pricing.get("data") if isinstance(pricing, dict) else None
        if not isinstance(rows_of, list):
            raise bad_request("This is not what new-api answers at /api/pricing.", "pricing")
        listed = {str(row.get("model_name")): row for row in rows_of if isinstance(row, dict)}
    groups = {name: decimal_of(value) for name, value in options.get("GroupRatio", {}).items()}
    return Ratios(options, listed, _per_unit(texts), groups.get("default", Decimal(1)), groups, of_new_api)


def _per_unit(texts: Mapping[str, str]) -> int:
    number = decimal_of(texts.get("QuotaPerUnit") or QUOTA_PER_UNIT)
    if number != number.to_integral_value() or not number:
        raise bad_request(f"QuotaPerUnit is {number}: only a whole number above 0 can be carried over.", "database")
    return int(number)


def _mapping(text: str, name: str) -> Mapping[str, Any]:
    try:
        found = exact_json(text, name)
    except CallerError as error:
        raise bad_request(f"The option {name} cannot be read: {error.message}", "database") from None
    if not isinstance(found, dict):
        raise bad_request(f"The option {name} is no JSON object.", "database")
    return found


def prices_of(ratios: Ratios, model: str, capability: str, rounding: Rounding = exactly) -> dict[str, str]:
    """What customers pay for a model per 1M tokens, by meter. Raises Unfit."""
    try:
        return _prices_of(ratios, model, capability == "text", rounding)
    except MISSHAPEN:
        raise Unfit("its ratios are not understood") from None


def _prices_of(ratios: Ratios, model: str, writes: bool, rounding: Rounding) -> dict[str, str]:
    row = ratios.listed.get(model)
    found = _listed(row) if row is not None else _optional(ratios, model, writes)
    base = _per_token(product(found["model"], ratios.group), ratios.per_unit)
    prices = {"input": per_million(base, rounding)}
    if not writes:
        return prices
    for meter, ratio in (("output", "completion"), ("cached_input", "cache"), ("cache_write", "create_cache")):
        if ratio in found:
            prices[meter] = per_million(product(base, found[ratio]), rounding)
    if ratios.of_new_api and "cache_write" not in prices:
        prices["cache_write"] = per_million(product(base, _CACHE_WRITE), rounding)
    return whole_prices(prices)


def _listed(row: Mapping[str, Any]) -> dict[str, Decimal]:
    """A row of /api/pricing: what new-api charges by, its code included."""
    if row.get("quota_type") == 1:
        raise Unfit("it is sold per call, which the books have no meter for")
    if row.get("billing_mode") == _EXPRESSION:
        raise Unfit("it is billed by an expression")
    names = {
        "model": "model_ratio",
        "completion": "completion_ratio",
        "cache": "cache_ratio",
        "create_cache": "create_cache_ratio",
    }
    return {ours: decimal_of(row[theirs]) for ours, theirs in names.items() if row.get(theirs) is not None}


def _optional(ratios: Ratios, model: str, writes: bool) -> dict[str, Decimal]:
    """What the options say, as far as nothing in the other's code goes before it."""
    options = ratios.options
    if model in options.get("ModelPrice", {}):
        raise Unfit("it is sold per call, which the books have no meter for")
    if options.get("billing_mode", {}).get(model) == _EXPRESSION:
        raise Unfit("it is billed by an expression")
    where = "save what new-api answers at /api/pricing and name it with --pricing" if ratios.of_new_api else "write it"
    if model not in options.get("ModelRatio", {}):
        raise Unfit(f"the options have no ratio for it, and one that stands in the code is not known here: {where}")
    found = {"model": decimal_of(options["ModelRatio"][model])}
    for ours, theirs in (("cache", "CacheRatio"), ("create_cache", "CreateCacheRatio")):
        if model in options.get(theirs, {}):
            found[ours] = decimal_of(options[theirs][model])
    if ratios.of_new_api and writes and "CacheRatio" not in options:
        raise Unfit(f"the options have no cache ratios, and those in the code are not known here: {where}")
    if writes:
        in_code = ratios.of_new_api and "/" not in model and _IN_CODE.match(model)
        if in_code or model not in options.get("CompletionRatio", {}):
            raise Unfit(f"its completion ratio may stand in the code, which is not known here: {where}")
        found["completion"] = decimal_of(options["CompletionRatio"][model])
    return found


def _per_token(ratio: Decimal, per_unit: int) -> Decimal:
    """A ratio as USD per token. Raises Unfit where that has no end in decimals."""
    price = Fraction(ratio) / per_unit
    scaled = price * 10**40
    if scaled.denominator != 1:
        raise Unfit("its price has no end in decimals")
    return product(Decimal(scaled.numerator), Decimal("1e-40"))


def nano_of_quota(quota: int, per_unit: int) -> int:
    """An amount of quota in nano-units of a dollar; less than one of them is dropped."""
    return quota * _NANO_PER_UNIT // per_unit
