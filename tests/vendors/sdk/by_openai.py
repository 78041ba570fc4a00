"""openai-python, for the vendors that tell their customers to use it."""

from collections.abc import Iterator
from typing import Any

from drive import Job
from openai import OpenAI


def said(job: Job) -> Iterator[dict[str, Any]]:
    with OpenAI(base_url=job.url, api_key=job.key, max_retries=0, **(job.options or {})) as client:
        if job.call == "models":
            yield from (model.model_dump() for model in client.models.list())
            return
        answer = client.chat.completions.create(**job.asked)
        if not job.asked.get("stream"):
            yield answer.model_dump()
            return
        yield from (chunk.model_dump() for chunk in answer)
