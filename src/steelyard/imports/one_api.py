"""Reads the database of one-api or new-api into a plan: channels, models and prices, users, tokens and balances.

Owns their columns and status numbers (model/channel.go, token.go, user.go: one-api commits 021f8c6 and 0b8ccb9, new-api
commits 0102ffa, 0067bd9 and 0089a12). A bound we cannot keep is never dropped in silence: what has it stays behind
unless the operator loosens it. Passwords, redemption codes, invitations and logs are not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from steelyard.imports.amounts import Rounding, Unfit, exact_json, exactly
from steelyard.imports.foreign_database import Foreign, Row
from steelyard.imports.model_facts import Facts
from steelyard.imports.plan import Plan, Step
from steelyard.imports.price_steps import Costs, price_step
from steelyard.imports.price_text import PRICE, Left, PriceEntry
from steelyard.imports.ratios import Ratios, prices_of, read_ratios
from steelyard.imports.tokens import Tenancy, tenant_groups
from steelyard.imports.vendor_names import NEW_API, ONE_API, Vendor
from steelyard.kernel.errors import CallerError

ENABLED = 1


class System(NamedTuple):
    """Which of the two, and what its channel types are."""

    name: str
    types: Mapping[int, Vendor]


SYSTEMS = {"one-api": System("one-api", ONE_API), "new-api": System("new-api", NEW_API)}


class Wanted(NamedTuple):
    """How it is read: `pricing` is new-api's answer at /api/pricing; `since` when prices begin."""

    facts: Facts
    tenancy: Tenancy
    since: str
    read_on: str
    pricing: object = None
    rounding: Rounding = exactly


class _Upstream(NamedTuple):
    name: str
    vendor: Vendor
    channel: Row


def one_api_plan(foreign: Foreign, system: System, wanted: Wanted) -> Plan:
    """Everything that can be brought over. Raises StartError or CallerError when this is no such database."""
    foreign.refuse_without(("channels", "users", "tokens", "options"), system.name)
    ratios = read_ratios(foreign.rows("options", "key"), wanted.pricing, of_new_api=system.name == "new-api")
    left: list[Left] = []
    upstreams = list(_upstreams(foreign.rows("channels"), system, left))
    offers = [step for upstream in upstreams for step in _offers(upstream, wanted.facts, left)]
    catalog = [*_prices(offers, upstreams, ratios, system, wanted, left), *offers]
    tenants = tenant_groups(foreign, wanted.tenancy, ratios, left)
    credentials = {
        upstream.name: key
        for upstream in upstreams
        if (key := str(upstream.channel.get("key") or "").strip()) and _is_one_key(upstream, key, left)
    }
    notes = []
    if any(upstream.channel.get("priority") or upstream.channel.get("weight") for upstream in upstreams):
        notes.append("Priorities and weights of channels do not come over: see steelyard route offer --weight.")
    assumed = sum(1 for step in offers if step.what.endswith("(assumed)"))
    if assumed:
        notes.append(
            f"{assumed} offers have assumed sizes: name LiteLLM's table with --prices, or --context, --answer."
        )
    return Plan((tuple(catalog), *tenants), tuple(left), tuple(notes), credentials)


def _upstreams(channels: list[Row], system: System, left: list[Left]) -> Iterator[_Upstream]:
    seen: set[str] = set()
    for channel in channels:
        what = f"channel {channel['id']} ({channel.get('name') or 'without a name'})"
        vendor = system.types.get(int(channel.get("type") or 0))
        if channel.get("status") != ENABLED:
            left.append(Left(what, "It is switched off."))
        elif vendor is None:
            left.append(Left(what, f"Its type {channel.get('type')} has no adapter here."))
        elif not vendor.address(channel.get("base_url")).strip("/").startswith("http"):
            left.append(Left(what, "It has no address."))
        else:
            name = vendor.name if vendor.name not in seen and vendor.base else f"{vendor.name}-{channel['id']}"
            seen.add(name)
            left += [Left(what, sentence) for sentence in _untold(channel)]
            yield _Upstream(name, vendor, channel)


def _untold(channel: Row) -> Iterator[str]:
    for field, told in (
        ("param_override", "Its overrides of parameters are not carried over."),
        ("header_override", "Its overrides of headers are not carried over."),
        ("proxy", "Its proxy is not carried over."),
        ("system_prompt", "Its system prompt is not carried over."),
    ):
        if channel.get(field) not in {None, "", "{}", "null"}:
            yield told


def _is_one_key(upstream: _Upstream, key: str, left: list[Left]) -> bool:
    if "\n" not in key and not key.startswith(("[", "{")):
        return True
    what = f"key of the upstream {upstream.name}"
    left.append(Left(what, "It is several keys, or a file of them: one is kept for each upstream. Set it by hand."))
    return False


def _mapping(channel: Row, left: list[Left]) -> Mapping[str, Any]:
    text = str(channel.get("model_mapping") or "").strip()
    try:
        found = exact_json(text, "model_mapping") if text else {}
    except CallerError:
        found = None
    if isinstance(found, dict):
        return found
    left.append(Left(f"channel {channel['id']}", "Its mapping of model names cannot be read: names go as they are."))
    return {}


def _offers(upstream: _Upstream, facts: Facts, left: list[Left]) -> Iterator[Step]:
    mapping = _mapping(upstream.channel, left)
    names = [name.strip() for name in str(upstream.channel.get("models") or "").split(",")]
    for name in dict.fromkeys(filter(None, names)):
        theirs = str(mapping.get(name) or name)
        sizes, assumed = facts.sizes(upstream.vendor, theirs, {})
        payload = sizes | {
            "name": name,
            "upstream": upstream.name,
            "address": upstream.vendor.address(upstream.channel.get("base_url")),
            "upstream_model": theirs,
            "kind": upstream.vendor.kind,
            "capabilities": [facts.capability(name)],
        }
        yield Step("offer", payload, f"{name} at {upstream.name}{' (assumed)' if assumed else ''}")


def _prices(
    offers: list[Step], upstreams: list[_Upstream], ratios: Ratios, system: System, wanted: Wanted, left: list[Left]
) -> Iterator[Step]:
    """One step with what customers pay, one with what upstreams cost by the price table."""
    source = f"ratios of {system.name}, read {wanted.read_on}"
    sold: dict[str, PriceEntry] = {}
    for name in sorted({step.payload["name"] for step in offers}):
        try:
            prices = prices_of(ratios, name, wanted.facts.capability(name), wanted.rounding)
        except Unfit as why:
            left.append(Left(f"price of {name}", f"{why}."))
            continue
        sold[name] = PriceEntry("", name, "USD", wanted.since, prices, source)
    yield from price_step(sold.values(), PRICE)
    vendors = {upstream.name: upstream.vendor for upstream in upstreams}
    costs = Costs(wanted.facts, wanted.since, wanted.rounding)
    for step in offers:
        costs.of(step, vendors[step.payload["upstream"]], left)
    yield from costs.steps(left)
