"""In which order to try the offers of a model.

Pure: the same offers give the same order. The first is the choice, the rest are its fall-backs before the first byte.
The catalog's order decides; an offer that cannot answer at all is left out.
"""

from steelyard.kernel.errors import unknown_model
from steelyard.kernel.records import Model, Offer


def choose(model: Model) -> tuple[Offer, ...]:
    """The offers worth trying, best first. Raises CallerError 404 when nobody serves the model."""
    able = tuple(offer for offer in model.offers if offer.context_tokens > 1 and offer.max_output_tokens > 0)
    if not able:
        raise unknown_model(model.name)
    return able
