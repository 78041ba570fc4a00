"""`steelyard route explain`: how this worker would route a request now, without asking anybody.

Goes the way of a paid request up to the call (the same `route`), with no hold behind it, and tells what it saw. What it
tells is this worker's view: latencies, failures and caches are each worker's own.
"""

from typing import Any

import msgspec

from steelyard.catalog.tariffs import sold
from steelyard.flow import House, route
from steelyard.gateway.chat_request import parse_chat
from steelyard.kernel.choice import Choice, Considered
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.records import Caller, Granted, Order, Snapshot, Terms
from steelyard.kernel.why import reason, why_from_bytes
from steelyard.rating.bounds import asking
from steelyard.routing.choose import find_model, most

_ID = b"route explain".ljust(16, b"\0")
_PROMPT = "Say hello."


class Question(msgspec.Struct, frozen=True):
    """What is asked. `at_ns` None: now."""

    model: str
    prompt: str = _PROMPT
    key: int | None = None
    at_ns: int | None = None
    max_tokens: int | None = None


class Explaining:
    """The errand of one worker."""

    def __init__(self, house: House) -> None:
        self._house = house

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Raises CallerError when the request would be refused before it is routed."""
        try:
            asked = msgspec.convert(payload, Question)
        except msgspec.ValidationError as error:
            raise bad_request(f"This cannot be explained: {error}.") from None
        snapshot = self._house.teller.snapshot
        model = find_model(snapshot, asked.model)
        caller = _caller(snapshot, model, asked.key)
        order = _order(asked, model)
        at_ns = self._house.meter.now_ns() if asked.at_ns is None else asked.at_ns
        (one,) = sold(snapshot, [model], order, at_ns, caller.currency)
        max_tokens = asking([one], order, caller, most, at_ns).dearest.max_tokens
        terms = Terms(one.model, one.price, Granted(0), max_tokens, False, at_ns)
        refused = ""
        try:
            quotes = route(self._house, caller, order, [terms])
        except CallerError as error:
            quotes, refused = [], f"{error.code}: {error.message}"
        router = self._house.router
        choice, short = router.why(order.request_id), router.in_short(order.request_id)
        router.forget(order.request_id)
        told = {"key": caller.key_id or None, "refused": refused, "reason": "only" if quotes else ""}
        if short and quotes:
            told["reason"] = reason(why_from_bytes(short))
        only = quotes[0].offer if quotes and choice is None else None
        return told | self._told(model, terms, choice, only)

    def _told(self, model: Model, terms: Terms, choice: Choice | None, only: Offer | None) -> dict[str, Any]:
        considered = choice.considered if choice is not None else ()
        rows = [self._row(one, model) for one in considered]
        known = {one.offer_id for one in considered} | ({only.id} if only else set())
        rows += [_bare(only, 1, "")] if only else []
        rows += [_bare(one, 0, "not_sold") for one in model.offers if one.id not in known]
        tried = [one for one in considered if one.rank]
        return {
            "model": model.name,
            "at_ns": terms.priced_ns,
            "currency": terms.price.currency,
            "policy": choice.policy if choice is not None else "",
            "decided_by": choice.decided_by if choice is not None else "",
            "winner": tried[0].upstream if tried else only.upstream if only else "",
            "expected": msgspec.to_builtins(choice.expected) if choice is not None else None,
            "price_nano": self._house.estimator.nano(terms.price, choice.expected) if choice is not None else None,
            "offers": rows,
        }

    def _row(self, one: Considered, model: Model) -> dict[str, Any]:
        offer = next(each for each in model.offers if each.id == one.offer_id)
        state = self._house.router.state(offer)
        more = {"failures": state.failures}
        p95 = {"first_token_p95_ms": state.first.p95 // NS_PER_MS, "token_p95_us": state.token.p95 // 1000}
        return {**msgspec.to_builtins(one), **p95, **more}


def _bare(offer: Offer, rank: int, left_out: str) -> dict[str, Any]:
    """An offer that was not weighed: the only one, or one that was no candidate."""
    fields = {name: getattr(offer, name) for name in ("model", "upstream", "upstream_model", "weight")}
    return {"offer_id": offer.id, "rank": rank, "left_out": left_out} | fields


def _caller(snapshot: Snapshot, model: Model, key_id: int | None) -> Caller:
    """Who asks: the key's owner, or nobody in particular, who pays in the currency of the model's price."""
    if key_id is None:
        prices = snapshot.prices.get(model.name, ())
        return Caller(0, 0, 0, "", "", prices[0].currency if prices else "")
    if (caller := snapshot.callers.of_key(key_id)) is not None:
        return caller
    raise bad_request(f"There is no live key {key_id}.", "key")


def _order(asked: Question, model: Model) -> Order:
    body = {"model": asked.model, "messages": [{"role": "user", "content": asked.prompt or _PROMPT}]}
    order = parse_chat(msgspec.json.encode(body | {"max_tokens": asked.max_tokens}), _ID).order
    if not model.writes_text and model.capabilities:
        return msgspec.structs.replace(order, capability=model.capabilities[0])
    return order
