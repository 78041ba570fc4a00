"""The list of models, in the shape the asking client knows. Pure projections of the catalog's records."""

from collections.abc import Sequence
from typing import Any

from steelyard.kernel.clock import NS_PER_S, iso_from_ns
from steelyard.kernel.offers import Model


def openai_model(model: Model) -> dict[str, Any]:
    """A model as OpenAI's clients read it."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_ns // NS_PER_S,
        "owned_by": "steelyard",
        "capabilities": model.capabilities,
    }


def openai_list(models: Sequence[Model]) -> dict[str, Any]:
    return {"object": "list", "data": [openai_model(model) for model in models]}


def anthropic_model(model: Model) -> dict[str, Any]:
    """A model as Anthropic's clients read it; what is listed can be asked for, so it is active."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": iso_from_ns(model.created_ns // NS_PER_S * NS_PER_S),
        "lifecycle": "active",
        "max_input_tokens": max(offer.context_tokens for offer in model.offers),
        "max_tokens": max(offer.max_output_tokens for offer in model.offers),
    }


def anthropic_list(models: Sequence[Model]) -> dict[str, Any]:
    """All models on one page that answer messages."""
    models = [model for model in models if model.writes_text]
    names = [model.name for model in models]
    return {
        "data": [anthropic_model(model) for model in models],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }
