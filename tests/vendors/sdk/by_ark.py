"""Volcengine's own client of Ark."""

from collections.abc import Iterator
from typing import Any

from drive import Job
from volcenginesdkarkruntime import Ark


def said(job: Job) -> Iterator[dict[str, Any]]:
    client = Ark(base_url=job.url, api_key=job.key, max_retries=0, **(job.options or {}))
    answer = client.chat.completions.create(**job.asked)
    if not job.asked.get("stream"):
        yield answer.model_dump()
        return
    yield from (chunk.model_dump() for chunk in answer)
