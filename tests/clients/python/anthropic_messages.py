"""anthropic-python at /v1/messages: 0.75, where structured output was a beta, and later."""

import functools
from typing import Any

import anthropic
import pydantic
from drive import Job, parsed

OLD = anthropic.__version__.startswith("0.")
BETA = "structured-outputs-2025-11-13"


@functools.cache
def client_of(url: str, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key)


def cell(job: Job) -> dict[str, Any]:
    client = client_of(job.url, job.key)
    messages: Any = client.messages
    asked: dict[str, Any] = {"model": job.model, "max_tokens": 100, "messages": job.turns}
    if job.ask == "tools":
        named = [{**tool, "input_schema": tool["parameters"]} for tool in job.tools]
        asked["tools"] = [{name: tool[name] for name in ("name", "description", "input_schema")} for tool in named]
    if job.ask == "schema":
        form = {"type": "json_schema", "schema": job.schema}
        asked |= {"output_format": form, "betas": [BETA]} if OLD else {"output_config": {"format": form}}
        messages = client.beta.messages if OLD else messages
        if OLD and job.way == "stream":  # its helper takes a class
            types = {"string": str, "integer": int}
            fields = {name: (types[each["type"]], ...) for name, each in job.schema["properties"].items()}
            asked["output_format"] = pydantic.create_model("Forecast", **fields)
    if job.leave:
        with messages.stream(**asked) as stream:
            text = next(stream.text_stream)
            return {"id": stream.response.headers["request-id"], "text": text}
    if job.way == "stream":
        with messages.stream(**asked) as stream:
            return seen(stream.get_final_message())
    raw = messages.with_raw_response.create(**asked)
    return seen(raw.parse()) | {"id": raw.headers["request-id"]}


def seen(message: Any) -> dict[str, Any]:
    text = "".join(block.text for block in message.content if block.type == "text")
    usage = message.usage
    cached = usage.cache_read_input_tokens
    return {
        "id": message.id,
        "text": text,
        "value": parsed(text),
        "calls": [[block.name, block.input] for block in message.content if block.type == "tool_use"],
        "usage": {
            "prompt": usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0),
            "cached": cached,
            "output": usage.output_tokens,
        },
    }
