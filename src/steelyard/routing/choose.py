"""In which order to try the offers of a model.

Pure: the same offers give the same order. The first is the choice, the rest are its fall-backs before the first byte.
The catalog's order decides; an offer that cannot answer at all is left out, and one that cannot be asked this.
"""

from collections.abc import Sequence

from steelyard.kernel.choice import Candidate
from steelyard.kernel.errors import CallerError, bad_request, unknown_model
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.records import Caller, Order, Quote, Terms

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


def choose(model: Model, capability: Capability = Capability.TEXT) -> tuple[Offer, ...]:
    """The offers worth trying, best first.

    Raises CallerError 404 when nobody serves the model, 400 when it is served for something else.
    """
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


def quoted(caller: Caller, terms: Terms, candidate: Candidate) -> Quote:
    """The terms, at this offer."""
    offer, held = candidate.offer, terms.granted
    max_tokens = min(terms.max_tokens, offer.max_output_tokens)
    lowered = terms.lowered and max_tokens == terms.max_tokens
    money = (held.amount_nano, max_tokens, lowered, terms.priced_ns, held.lease, held.left)
    rate_id = candidate.rate.id if candidate.rate else 0
    return Quote(caller, offer, terms.price, candidate.cost, *money, rate_id)


def bounds(order: Order, model: Model, offers: Sequence[Offer]) -> tuple[int, int]:
    """Prompt tokens and output tokens of one sequence, at most, at any of these offers."""
    prompt = min(order.prompt_tokens_max, order.parts * max(offer.context_tokens for offer in offers))
    if order.capability is not Capability.TEXT:
        return prompt, 0
    asked = order.max_tokens or model.default_max_tokens
    return prompt, min(asked, max(offer.max_output_tokens for offer in offers))
