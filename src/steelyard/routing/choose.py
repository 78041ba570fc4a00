"""In which order to try the offers of a model.

Pure: the same offers give the same order. The first is the choice, the rest are its fall-backs before the first byte.
The catalog's order decides; an offer that cannot answer at all is left out, and one that cannot be asked this.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate
from steelyard.kernel.errors import CallerError, bad_request, unknown_model
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.records import Caller, Order, Quote, Snapshot, Terms
from steelyard.kernel.reuse import ANSWER_CACHE, Reuse

_DOES = {
    Capability.TEXT: "writes text; ask it at /v1/chat/completions",
    Capability.EMBEDDING: "makes embeddings; ask it at /v1/embeddings",
    Capability.RERANK: "ranks documents; ask it at /v1/rerank",
    Capability.MODERATION: "judges contents; ask it at /v1/moderations",
}
_CANNOT = {
    Capability.TEXT: "writes no text",
    Capability.EMBEDDING: "makes no embeddings",
    Capability.RERANK: "ranks no documents",
    Capability.MODERATION: "judges no contents",
}


def find_model(snapshot: Snapshot, name: str) -> Model:
    """The model that is sold under this name, its own or an alias. Raises CallerError 404."""
    model = snapshot.models.get(name) or snapshot.models.get(snapshot.routes.aliases.get(name, ""))
    if model is None:
        raise unknown_model(name)
    return model


def sold_names(snapshot: Snapshot) -> dict[str, Model]:
    """All that can be asked for by name, aliases among it."""
    aliases = {name: snapshot.models.get(model) for name, model in snapshot.routes.aliases.items()}
    known = {name: msgspec.structs.replace(model, name=name) for name, model in aliases.items() if model is not None}
    return known | snapshot.models if known else snapshot.models


def sought(snapshot: Snapshot, caller: Caller, order: Order) -> list[Model]:
    """The model that is asked for, and those that may answer in its place, best first.

    The customer's own word goes before what his key allows; what he names must exist (CallerError 404), and what he
    asks for must be served for this (400).
    """
    found = [find_model(snapshot, order.model)]
    _chosen(found[0], order.capability)
    rule = snapshot.routes.keys.get(caller.key_id)
    if not order.fallbacks and (rule is None or not rule.fallbacks):
        return found
    if order.fallbacks:
        found += [find_model(snapshot, name) for name in order.fallbacks]
    elif rule is not None and rule.fallbacks:
        found += [snapshot.models[name] for name in rule.fallbacks if name in snapshot.models]
    able = [model for model in found[1:] if order.capability in model.capabilities and model is not found[0]]
    return [found[0], *able]


def able(terms: Sequence[Terms], quotes_of: Callable[[Terms], list[Quote]]) -> list[Quote]:
    """Whom to ask for the first model, then for the next. Raises what kept the first from being asked, if all are."""
    quotes: list[Quote] = []
    refusal: CallerError | None = None
    for one in terms:
        try:
            quotes += quotes_of(one)
        except CallerError as error:
            refusal = refusal or error
    if not quotes and refusal is not None:
        raise refusal
    return quotes


def choose(model: Model, capability: Capability = Capability.TEXT) -> tuple[Offer, ...]:
    """The offers worth trying, best first.

    Raises CallerError 404 when nobody serves the model, 400 when it is served for something else.
    """
    return _chosen(model, capability).offers


class _Chosen(NamedTuple):
    model: Model
    offers: tuple[Offer, ...]
    context_tokens: int  # the most that any of them takes
    output_tokens: int  # ... and writes


_kept: dict[tuple[int, str], _Chosen] = {}
"""By the model's own object: a snapshot's models are asked for again and again, and never changed."""


def _chosen(model: Model, capability: Capability) -> _Chosen:
    kept = _kept.get((id(model), capability))
    return kept if kept is not None and kept.model is model else _kept_now(model, capability)


def _kept_now(model: Model, capability: Capability) -> _Chosen:
    offers = _able_of(model, capability)
    most = (max(offer.context_tokens for offer in offers), max(offer.max_output_tokens for offer in offers))
    if len(_kept) >= limits.OFFERS_WATCHED_MAX:
        _kept.clear()
    chosen = _kept[id(model), capability] = _Chosen(model, offers, *most)
    return chosen


def _able_of(model: Model, capability: Capability) -> tuple[Offer, ...]:
    served = tuple(offer for offer in model.offers if offer.context_tokens > 1)
    able = tuple(offer for offer in served if capability in offer.capabilities and _can_answer(offer, capability))
    if able:
        return able
    if not served or capability in model.capabilities:
        raise unknown_model(model.name)
    raise _asked_wrong(model, capability)


def _can_answer(offer: Offer, capability: Capability) -> bool:
    return offer.max_output_tokens > 0 or capability is not Capability.TEXT


def _asked_wrong(model: Model, capability: Capability) -> CallerError:
    does = ", and ".join(_DOES[one] for one in model.capabilities)
    sentence = f"The model {model.name!r} {_CANNOT[capability]}. It {does}."
    return bad_request(sentence, "model", "wrong_capability")


def quoted(caller: Caller, terms: Terms, candidates: Sequence[Candidate], reuse: Reuse | None = None) -> list[Quote]:
    """The terms at each of these offers, or in the place of the first at the cache that has the answer already."""
    if reuse is not None and reuse.events:
        offer = msgspec.structs.replace(candidates[0].offer, id=-1, upstream=ANSWER_CACHE)
        candidates = [msgspec.structs.replace(candidates[0], offer=offer)]
    held, quotes = terms.granted, []
    for candidate in candidates:
        offer, max_tokens, lowered = candidate.offer, terms.max_tokens, terms.lowered
        if max_tokens > offer.max_output_tokens:
            max_tokens, lowered = offer.max_output_tokens, False
        money = (held.amount_nano, max_tokens, lowered, terms.priced_ns, held.lease, held.left)
        rate_id = candidate.rate.id if candidate.rate is not None else 0
        quotes.append(Quote(caller, offer, terms.price, candidate.cost, *money, rate_id, reuse))
    return quotes


def most(model: Model, capability: Capability) -> tuple[int, int]:
    """The tokens that any of the model's offers takes in one piece, and that it writes. Raises as `choose`."""
    chosen = _chosen(model, capability)
    return chosen.context_tokens, chosen.output_tokens if capability is Capability.TEXT else 0
