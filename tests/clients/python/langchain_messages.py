"""langchain-anthropic at /v1/messages."""

from typing import Any

from drive import Job
from langchain_anthropic import ChatAnthropic
from langchain_chat import asked


def cell(job: Job) -> dict[str, Any]:
    model = ChatAnthropic(model=job.model, base_url=job.url, api_key=job.key, max_tokens=100, stream_usage=job.usage)
    return asked(model, job)
