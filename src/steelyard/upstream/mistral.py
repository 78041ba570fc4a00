"""Mistral's own servers in OpenAI's dialect: they refuse every field they do not know.

The wish for counts is one of them: they come with the last chunk unasked. Facts: refusals that its clients have told of
(`stream_options`, `reasoning_content`), 2025; not verified at the vendor. Pure.
"""

from typing import Any

from steelyard.upstream.replay import without_reasoning
from steelyard.upstream.vendor import Asked, fields_of

HOST = "api.mistral.ai"


def fields(asked: Asked) -> dict[str, Any]:
    """Turns go without reasoning; a seed has another name."""
    sent = fields_of(asked)
    sent.pop("stream_options", None)
    if "messages" in sent:
        sent["messages"] = without_reasoning(sent["messages"])
    if "seed" in sent:
        sent["random_seed"] = sent.pop("seed")
    return sent
