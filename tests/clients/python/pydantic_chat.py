"""pydantic-ai at /v1/chat/completions. An agent answers its own tool calls: with tools it asks twice."""

import asyncio
from typing import Any

from drive import Job
from pydantic_ai import Agent, NativeOutput, StructuredDict, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def cell(job: Job) -> dict[str, Any]:
    provider = OpenAIProvider(base_url=f"{job.url}/v1", api_key=job.key)
    return asked(OpenAIChatModel(job.model, provider=provider), job)


def asked(model: Model, job: Job) -> dict[str, Any]:
    """One cell with any of the library's models."""
    called: list[Any] = []

    def tool(name: str) -> Any:
        def run(**arguments: Any) -> str:
            called.append([name, arguments])
            return "done"

        return run

    tools = [
        Tool.from_schema(tool(each["name"]), each["name"], each["description"], each["parameters"], sequential=True)
        for each in job.tools
    ]
    output = NativeOutput(StructuredDict(job.schema, name="forecast")) if job.ask == "schema" else str
    agent: Agent[None, Any] = Agent(model, tools=tools, output_type=output)
    if job.way == "plain":
        result = agent.run_sync(job.prompt)
        return seen(result.all_messages(), result.output, called, result.usage)
    return asyncio.run(streamed(agent, job, called))


async def streamed(agent: "Agent[None, Any]", job: Job, called: list[Any]) -> dict[str, Any]:
    async with agent.run_stream(job.prompt) as result:
        if job.leave:
            async for text in result.stream_text(debounce_by=None):
                return {"id": result.response.provider_response_id, "text": text}
        output = await result.get_output()
        return seen(result.all_messages(), output, called, result.usage)


def seen(messages: list[ModelMessage], output: Any, called: list[Any], usage: Any) -> dict[str, Any]:
    answers = [message for message in messages if isinstance(message, ModelResponse)]
    usage = usage() if callable(usage) else usage
    asked = [part for answer in answers for part in answer.parts if isinstance(part, ToolCallPart)]
    assert [[part.tool_name, part.args_as_dict()] for part in asked] == called, (asked, called)
    return {
        "ids": [answer.provider_response_id for answer in answers],
        "text": output if isinstance(output, str) else "",
        "value": output,
        "calls": called,
        "usage": {
            "prompt": usage.input_tokens,
            "cached": usage.cache_read_tokens,
            "output": usage.output_tokens,
        },
    }
