"""openai-python at /v1/responses: 1.x and later."""

import json
from typing import Any

from drive import Job, parsed
from openai_chat import client_of


def cell(job: Job) -> dict[str, Any]:
    responses = client_of(job.url, job.key).responses
    asked: dict[str, Any] = {"model": job.model, "input": job.prompt}
    if job.ask == "tools":
        asked["tools"] = [{"type": "function", "strict": True, **tool} for tool in job.tools]
    if job.ask == "schema":
        asked["text"] = {"format": {"type": "json_schema", "name": "forecast", "strict": True, "schema": job.schema}}
    if job.leave:
        with responses.create(**asked, stream=True) as stream:
            text = next(event.delta for event in stream if event.type == "response.output_text.delta")
            return {"id": stream.response.headers["x-request-id"], "text": text}
    if job.way == "stream":
        with responses.stream(**asked) as helper:
            return seen(helper.get_final_response())
    raw = responses.with_raw_response.create(**asked)
    return seen(raw.parse()) | {"id": raw.headers["x-request-id"]}


def seen(answer: Any) -> dict[str, Any]:
    calls = [item for item in answer.output if item.type == "function_call"]
    return {
        "id": answer.id,
        "text": answer.output_text,
        "value": parsed(answer.output_text),
        "calls": [[call.name, json.loads(call.arguments)] for call in calls],
        "usage": {
            "prompt": answer.usage.input_tokens,
            "cached": answer.usage.input_tokens_details.cached_tokens,
            "output": answer.usage.output_tokens,
        },
    }
