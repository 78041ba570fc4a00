"""The litellm SDK at /v1/chat/completions, as a server of OpenAI's kind."""

from typing import Any

import litellm
from drive import Job
from openai_chat import seen


def cell(job: Job) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": f"openai/{job.model}", "api_base": f"{job.url}/v1", "api_key": job.key}
    asked["messages"] = job.turns
    if job.ask == "tools":
        asked["tools"] = job.functions
    if job.ask == "schema":
        asked["response_format"] = job.response_format
    if job.way == "plain":
        return seen(litellm.completion(**asked))
    if job.usage:
        asked["stream_options"] = {"include_usage": True}
    chunks, shown = [], None
    for chunk in litellm.completion(**asked, stream=True):
        chunks.append(chunk)
        shown = getattr(chunk, "usage", None) or shown
        if job.leave and chunk.choices[0].delta.content:
            return {"id": chunk.id, "text": chunk.choices[0].delta.content}
    built = litellm.stream_chunk_builder(chunks)
    if shown is None:  # what it was not told it counts by itself
        built.usage = None
    return seen(built)
