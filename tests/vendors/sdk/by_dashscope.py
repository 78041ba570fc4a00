"""DashScope's own SDK at its native API: it raises nothing, an error is an object."""

from collections.abc import Iterator
from typing import Any

import dashscope
from drive import Job


def said(job: Job) -> Iterator[dict[str, Any]]:
    dashscope.base_http_api_url = job.url
    speaks = dashscope.MultiModalConversation if job.call == "multimodal" else dashscope.Generation
    answer = speaks.call(api_key=job.key, **job.asked)
    for each in answer if job.asked.get("stream") else [answer]:
        yield {name: each.get(name) for name in ("status_code", "code", "message", "request_id", "output", "usage")}
