"""langchain-openai at /v1/chat/completions."""

from typing import Any

from drive import Job, parsed
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI


def cell(job: Job) -> dict[str, Any]:
    model = ChatOpenAI(model=job.model, base_url=f"{job.url}/v1", api_key=job.key, stream_usage=job.usage)
    return asked(model, job)


def asked(model: BaseChatModel, job: Job, **structured: Any) -> dict[str, Any]:
    """One cell with any of LangChain's chat models."""
    runnable: Any = model.bind_tools(job.functions) if job.ask == "tools" else model
    if job.ask == "schema":
        titled = {"title": "forecast", "description": "A forecast.", **job.schema}
        runnable = model.with_structured_output(titled, method="json_schema", include_raw=True)
    if job.leave:
        pieces = runnable.stream(job.prompt)
        piece = next(piece for piece in pieces if piece.text)
        pieces.close()
        return {"id": piece.id, "text": piece.text}
    if job.way == "plain":
        found = runnable.invoke(job.prompt)
    else:
        found = None
        for piece in runnable.stream(job.prompt):
            found = piece if found is None else found + piece
    if job.ask != "schema":
        return seen(found)
    assert found["parsing_error"] is None, found
    return seen(found["raw"]) | {"value": found["parsed"]}


def seen(message: Any) -> dict[str, Any]:
    usage = message.usage_metadata
    return {
        "id": message.response_metadata.get("id") or message.id,
        "text": message.text,
        "value": parsed(message.text),
        "calls": [[call["name"], call["args"]] for call in message.tool_calls],
        "usage": usage
        and {
            "prompt": usage["input_tokens"],
            "cached": usage["input_token_details"]["cache_read"],
            "output": usage["output_tokens"],
        },
    }
