"""openai-python at /v1/chat/completions: 1.x and later."""

import functools
import json
from typing import Any

from drive import Job, parsed
from openai import OpenAI


@functools.cache
def client_of(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key)


def cell(job: Job) -> dict[str, Any]:
    chat = client_of(job.url, job.key).chat.completions
    asked: dict[str, Any] = {"model": job.model, "messages": job.turns}
    if job.ask == "tools":
        asked["tools"] = job.functions
    if job.ask == "schema":
        asked["response_format"] = job.response_format
    if job.usage and job.way == "stream":
        asked["stream_options"] = {"include_usage": True}
    if job.leave:
        with chat.create(**asked, stream=True) as stream:
            text = next(chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content)
            return {"id": stream.response.headers["x-request-id"], "text": text}
    if job.way == "stream":
        with chat.stream(**asked) as helper:
            return seen(helper.get_final_completion())
    raw = chat.with_raw_response.create(**asked)
    return seen(raw.parse()) | {"id": raw.headers["x-request-id"]}


def seen(answer: Any) -> dict[str, Any]:
    (choice,) = answer.choices
    calls = choice.message.tool_calls or ()
    return {
        "id": answer.id,
        "text": choice.message.content or "",
        "value": parsed(choice.message.content),
        "calls": [[call.function.name, json.loads(call.function.arguments)] for call in calls],
        "usage": answer.usage
        and {
            "prompt": answer.usage.prompt_tokens,
            "cached": answer.usage.prompt_tokens_details.cached_tokens,
            "output": answer.usage.completion_tokens,
        },
    }
