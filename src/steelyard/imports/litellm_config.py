"""Reads LiteLLM's proxy configuration into a plan: deployments as offers, what they cost as prices, aliases, fallbacks.

Owns its sections (litellm 1.110.2: model_list, router_settings, litellm_settings, general_settings). LiteLLM charges a
key what the request cost, so a model's price here is what its deployments cost, if all cost the same. Values of
settings that are not understood are never repeated: they may be secrets.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from steelyard.imports.amounts import MISSHAPEN, Rounding, Unfit, exactly
from steelyard.imports.litellm_prices import is_carried, is_price, priced
from steelyard.imports.model_facts import Facts
from steelyard.imports.plan import Plan, Step
from steelyard.imports.price_steps import Costs, price_step
from steelyard.imports.price_text import PRICE, Left, PriceEntry, whole_prices, whole_whens
from steelyard.imports.vendor_names import ANTHROPIC, LITELLM, OPENAI, OWN, Vendor
from steelyard.kernel.errors import bad_request

_ENVIRONMENT = "os.environ/"
_POLICIES = {
    "latency-based-routing": "fastest",
    "cost-based-routing": "cheapest",
    "least-busy": "balanced",
    "usage-based-routing": "balanced",
    "usage-based-routing-v2": "balanced",
}
_MODES = {"embedding": "embedding", "rerank": "rerank", "moderation": "moderation"}
_OF_OPENAI = ("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-", "omni-moderation")
_CARRIED = frozenset({"model", "api_base", "base_url", "api_key", "custom_llm_provider", "rpm", "tpm"})
_WITHOUT_MATTER = frozenset({"timeout", "stream_timeout", "max_retries", "drop_params"})
"""What has a counterpart here that needs no telling: time-outs, retries, fields that are refused by name."""

Settings = Mapping[str, Any]


class Read(NamedTuple):
    """How it is read: `environment` has the variables that values name; `since` is when prices begin."""

    facts: Facts
    environment: Mapping[str, str]
    since: str
    read_on: str
    rounding: Rounding = exactly


class _Deployment(NamedTuple):
    """One entry of model_list that can be an offer."""

    name: str
    model: str
    vendor: Vendor
    provider: str
    address: str
    key: str | None  # as it stands there: os.environ/NAME, the key itself, or nothing
    params: Settings
    info: Settings


def litellm_plan(document: object, how: Read) -> Plan:
    """Everything that can be brought over. Raises CallerError 400 when this is no configuration of LiteLLM."""
    if not isinstance(document, dict) or not isinstance(document.get("model_list"), list):
        raise bad_request("This is no configuration of LiteLLM: it has no model_list.", "file")
    left: list[Left] = []
    reader = _Reader(how, left)
    for number, entry in enumerate(document["model_list"], 1):
        reader.add(number, entry)
    routes = [*_routes(document, list(reader.prices), left)]
    left += _settings(document)
    steps = (*reader.price_steps(), *reader.offers, *reader.bounds, *routes)
    return Plan((steps,), tuple(left), tuple(reader.notes), reader.credentials)


class _Reader:
    """Gathers offers, prices and keys over the entries of model_list."""

    def __init__(self, how: Read, left: list[Left]) -> None:
        self._how = how
        self._left = left
        self._upstreams: dict[tuple[str, str, str | None], str] = {}
        self._offered: set[tuple[str, str]] = set()
        self._costs = Costs(how.facts, how.since, how.rounding)
        self.offers: list[Step] = []
        self.bounds: list[Step] = []
        self.prices: dict[str, list[PriceEntry | None]] = {}
        self.credentials: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, number: int, entry: object) -> None:
        """Take an entry of model_list; one that cannot be taken is told."""
        name = entry.get("model_name") if isinstance(entry, dict) else None
        what = f"model_list {number} ({name or 'without a name'})"
        try:
            deployment = _deployment(entry, self._how.environment)
        except Unfit as why:
            self._left.append(Left(what, f"{str(why)[0].upper()}{str(why)[1:]}."))
            return
        except MISSHAPEN:
            self._left.append(Left(what, "Its shape is not that of LiteLLM."))
            return
        upstream = self._upstream(deployment)
        if (deployment.name, upstream) in self._offered:
            self._left.append(Left(what, f"{deployment.name} is offered at {upstream} already, under another name."))
            return
        self._offered.add((deployment.name, upstream))
        self._offer(deployment, upstream, what)

    def _offer(self, deployment: _Deployment, upstream: str, what: str) -> None:
        sizes, assumed = self._how.facts.sizes(deployment.vendor, deployment.model, deployment.info)
        capability = _MODES.get(str(deployment.info.get("mode"))) or self._how.facts.capability(deployment.model)
        if capability != "text":
            sizes |= {"max_output_tokens": 0, "default_max_tokens": 0}
        payload = sizes | {
            "name": deployment.name,
            "upstream": upstream,
            "address": deployment.address,
            "upstream_model": deployment.model,
            "kind": deployment.vendor.kind,
            "capabilities": [capability],
        }
        step = Step("offer", payload, f"{deployment.name} at {upstream}{' (assumed)' if assumed else ''}")
        self.offers.append(step)
        bounds = {bound: count for bound in ("rpm", "tpm") if (count := _count(deployment.params.get(bound)))}
        if bounds:
            told = ", ".join(f"{count} {bound}" for bound, count in bounds.items())
            whose = {"model": deployment.name, "upstream": upstream}
            self.bounds.append(Step("route.offer", whose | bounds, f"{deployment.name} at {upstream}: {told}"))
        if beside := sorted(_not_carried(deployment)):
            self._left.append(Left(what, f"Carried without {', '.join(beside)}."))
        self._cost(step, deployment, upstream)

    def _cost(self, step: Step, deployment: _Deployment, upstream: str) -> None:
        own = _told(deployment)
        told = None
        if _prices(deployment):  # then no table says what it costs
            try:
                base, whens = priced(own, "", self._how.rounding)
            except Unfit as why:
                self._left.append(Left(f"cost of {step.what}", f"{why}."))
                self.prices.setdefault(deployment.name, []).append(None)
                return
            source = f"LiteLLM's configuration, read {self._how.read_on}"
            base = base if step.payload["max_output_tokens"] else {"input": base["input"]}
            prices, whens = whole_prices(base), whole_whens(base, whens)
            told = PriceEntry(upstream, deployment.model, "USD", self._how.since, prices, source, whens)
        entry = self._costs.of(step, deployment.vendor, self._left, told)
        self.prices.setdefault(deployment.name, []).append(entry)

    def price_steps(self) -> Iterator[Step]:
        """What customers pay, and what deployments cost."""
        sold = []
        for name, entries in self.prices.items():
            known = [entry for entry in entries if entry is not None]
            if not known:
                self._left.append(Left(f"price of {name}", "Nothing says what it costs. Load a price before it sells."))
            elif any((one.prices, one.whens) != (known[0].prices, known[0].whens) for one in known):
                why = "Its deployments cost differently, and here a model has one price. Load one before it sells."
                self._left.append(Left(f"price of {name}", why))
            else:
                sold.append(_of_model(known[0], name))
        yield from price_step(sold, PRICE)
        yield from self._costs.steps(self._left)

    def _upstream(self, deployment: _Deployment) -> str:
        """Its name: deployments of one vendor, address and key are one upstream."""
        place = (deployment.provider, deployment.address, deployment.key)
        if place not in self._upstreams:
            first = deployment.provider.replace("_", "-") if deployment.vendor is OWN else deployment.vendor.name
            taken = sum(name == first or name.startswith(f"{first}-") for name in self._upstreams.values())
            self._upstreams[place] = f"{first}-{taken + 1}" if taken else first
            self._key(deployment, self._upstreams[place])
        return self._upstreams[place]

    def _key(self, deployment: _Deployment, upstream: str) -> None:
        key = deployment.key
        if key is None:
            key = f"{_ENVIRONMENT}{deployment.provider.upper()}_API_KEY"
            if key.removeprefix(_ENVIRONMENT) not in self._how.environment:
                return  # a server of one's own often wants none
        if not key.startswith(_ENVIRONMENT):
            self.credentials[upstream] = key
            return
        variable = key.removeprefix(_ENVIRONMENT)
        if found := self._how.environment.get(variable):
            self.credentials[upstream] = found
        else:
            told = f"steelyard vendor key {upstream} --from-env {variable}"
            self.notes.append(f"The key of {upstream} is in {variable}, which is not set here: {told}")


def _deployment(entry: Any, environment: Mapping[str, str]) -> _Deployment:
    """Raises Unfit for what cannot be an offer."""
    name, params, info = str(entry["model_name"]), dict(entry["litellm_params"]), entry.get("model_info") or {}
    told = str(params["model"])
    if "*" in name or "*" in told:
        raise Unfit("a name with a wildcard offers no model that could have a price")
    provider, model = _provider(told, params.get("custom_llm_provider"))
    vendor = LITELLM.get(provider)
    if vendor is None:
        raise Unfit(f"its provider {provider or 'is not told and'} has no adapter here")
    base = params.get("api_base") or params.get("base_url")
    if isinstance(base, str) and base.startswith(_ENVIRONMENT):
        variable = base.removeprefix(_ENVIRONMENT)
        base = environment.get(variable)
        if base is None:
            raise Unfit(f"its address is in {variable}, which is not set here")
    if vendor is OWN and not base:
        raise Unfit("it has no api_base")
    for bound in ("rpm", "tpm"):
        params.setdefault(bound, entry.get(bound))
    key = params.get("api_key")
    address = vendor.address(base)
    return _Deployment(name, model, vendor, provider, address, None if key is None else str(key), params, dict(info))


def _provider(model: str, told: object) -> tuple[str, str]:
    """Provider and the name it knows."""
    prefix, slash, rest = model.partition("/")
    if isinstance(told, str):
        return told, rest if prefix == told else model
    if slash:
        return prefix, rest
    if model.startswith(_OF_OPENAI):
        return OPENAI.name, model
    return (ANTHROPIC.name if model.startswith("claude") else ""), model


def _told(deployment: _Deployment) -> dict[str, Any]:
    """What is said of it, whichever section says so."""
    return {str(field): value for field, value in {**deployment.info, **deployment.params}.items()}


def _prices(deployment: _Deployment) -> set[str]:
    """Fields that say what it costs. What no meter has and is free says nothing."""
    told = {field: value for field, value in _told(deployment).items() if value is not None and is_price(field)}
    return {field for field, value in told.items() if value or is_carried(field)}


def _not_carried(deployment: _Deployment) -> set[str]:
    """Parameters that have no counterpart, and prices that no meter has or that are of batches."""
    others = set(map(str, deployment.params)) - _CARRIED - _WITHOUT_MATTER
    prices = {field for field in _prices(deployment) if field.endswith("_batches") or not is_carried(field)}
    return prices | {field for field in others if not is_price(field)}


def _of_model(cost: PriceEntry, name: str) -> PriceEntry:
    return PriceEntry("", name, cost.currency, cost.effective_from, cost.prices, cost.source, cost.whens)


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _routes(document: Settings, models: list[str], left: list[Left]) -> Iterator[Step]:
    """Aliases, fallbacks and the policy."""
    router = _section(document, "router_settings")
    aliases = router.get("model_group_alias")
    for alias, target in (aliases if isinstance(aliases, dict) else {}).items():
        model = target.get("model") if isinstance(target, dict) else target
        yield Step("route.alias", {"name": str(alias), "model": str(model)}, f"{alias} is another name of {model}")
    fallbacks = router.get("fallbacks") or _section(document, "litellm_settings").get("fallbacks") or []
    for rule in fallbacks if isinstance(fallbacks, list) else []:
        for model in rule if isinstance(rule, dict) else ():
            why = "Another model answers only where a key allows it: steelyard route set --key ID --fallback MODEL."
            left.append(Left(f"fallbacks of {model}", why))
    strategy = router.get("routing_strategy")
    policy = _POLICIES.get(str(strategy))
    if strategy not in {None, "simple-shuffle"} and policy is None:
        left.append(Left("router_settings", f"The routing strategy {strategy} has no policy here."))
    for model in models if policy else ():
        yield Step("route.set", {"model": model, "policy": policy}, f"{model} is routed by {policy}")


def _section(document: Settings, name: str) -> Settings:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _settings(document: Settings) -> Iterator[Left]:
    """What has no counterpart, by its names alone."""
    known = {
        "router_settings": {"model_group_alias", "fallbacks", "routing_strategy", "num_retries", "timeout"},
        "litellm_settings": {"fallbacks", "drop_params", "num_retries", "request_timeout"},
        "general_settings": {"master_key"},
    }
    if "master_key" in _section(document, "general_settings"):
        yield Left("general_settings", "The master key opens nothing here: steelyard operator add NAME makes a key.")
    for section, names in known.items():
        if beside := sorted(set(map(str, _section(document, section))) - names):
            yield Left(section, f"Not carried over: {', '.join(beside)}.")
    if others := sorted(set(map(str, document)) - {"model_list", *known}):
        yield Left("configuration", f"Not carried over: {', '.join(others)}.")
