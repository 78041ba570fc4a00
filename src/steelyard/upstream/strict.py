"""Vendors of OpenAI's dialect without ways of their own, but that they refuse fields they do not know; by their hosts.

Facts: refusals that clients of theirs have told of, 2025 and 2026; not verified at the vendors. Pure.
"""

from typing import Any

from steelyard.upstream.replay import without_reasoning
from steelyard.upstream.vendor import Asked, fields_of


def groq(asked: Asked) -> dict[str, Any]:
    """Turns go without reasoning."""
    sent = fields_of(asked)
    if "messages" in sent:
        sent["messages"] = without_reasoning(sent["messages"])
    return sent


def mistral(asked: Asked) -> dict[str, Any]:
    """The same, a seed has another name, and counts come unasked: the wish for them is refused."""
    sent = groq(asked)
    sent.pop("stream_options", None)
    if "seed" in sent:
        sent["random_seed"] = sent.pop("seed")
    return sent


AT_HOST = {"api.groq.com": groq, "api.mistral.ai": mistral}
