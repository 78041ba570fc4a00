"""The matrix: which clients are driven, what each is asked in a cell, and what must come back. Starts nothing."""

from dataclasses import dataclass
from typing import Any

TOOLS: list[dict[str, Any]] = [
    {
        "name": "weather",
        "description": "The weather of some days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
    {
        "name": "time",
        "description": "The time in a zone.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string"}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
]
SCHEMA: dict[str, Any] = TOOLS[0]["parameters"]
FORECAST = {"city": "Bern", "days": 3}
CALLS = [["weather", FORECAST], ["time", {"zone": "Bern"}]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing asked in one way."""

    name: str
    ask: str = "text"  # text, tools or schema
    way: str = "plain"  # plain or stream
    usage: bool = False  # asked for; a plain answer has it anyhow
    scene: str = ""  # of the scripted upstream; by default the one of `ask`
    leave: bool = False

    @property
    def prompt(self) -> str:
        scenes = {"text": "hello", "tools": "tools", "schema": "schema"}
        return f"scene: {self.scene or scenes[self.ask]}"


ASKS = ("text", "tools", "schema")
SERVED: tuple[Cell, ...] = (
    *(Cell(f"{ask}, plain", ask) for ask in ASKS),
    *(Cell(f"{ask}, stream", ask, "stream", usage=True) for ask in ASKS),
    *(Cell(f"{ask}, stream without usage", ask, "stream") for ask in ASKS),
)
"""Cells that are answered whole."""
LEFT = Cell("hang-up", way="stream", scene="held", leave=True)
EMPTY = Cell("empty wallet")
BROKEN = Cell("broken stream", way="stream", scene="error")
RETRIED = Cell("retry", scene="flaky")
CELLS = (*SERVED, LEFT, EMPTY, BROKEN, RETRIED)


@dataclass(frozen=True, slots=True)
class Client:
    """A client library as it is driven."""

    name: str
    package: str
    process: str  # which driver speaks for it
    module: str
    path: str  # the endpoint it calls
    refusal: str  # its own error for an empty wallet
    usage_always: bool = False  # its streams show usage without being asked
    answers_itself: bool = False  # it runs the tools that are called and asks again
    note: str = ""  # what a reader of the table should know


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
CLIENTS: tuple[Client, ...] = (
    Client("openai-python 1.x", "openai", "old", "openai_chat", CHAT, "APIStatusError"),
    Client("openai-python", "openai", "new", "openai_chat", CHAT, "APIStatusError"),
    Client("openai-node", "openai", "node", "openai_chat", CHAT, "APIError"),
    Client("openai-python 1.x, Responses", "openai", "old", "openai_responses", RESPONSES, "APIStatusError", True),
    Client("openai-python, Responses", "openai", "new", "openai_responses", RESPONSES, "APIStatusError", True),
    Client("openai-node, Responses", "openai", "node", "openai_responses", RESPONSES, "APIError", True),
    Client("anthropic-python 0.x", "anthropic", "old", "anthropic_messages", MESSAGES, "APIStatusError", True),
    Client("anthropic-python", "anthropic", "new", "anthropic_messages", MESSAGES, "PaymentRequiredError", True),
    Client("AI SDK openai", "@ai-sdk/openai", "node", "ai_sdk_openai", RESPONSES, "AI_APICallError", True),
    Client(
        "AI SDK openai-compatible", "@ai-sdk/openai-compatible", "node", "ai_sdk_compatible", CHAT, "AI_APICallError"
    ),
    Client(
        *("langchain-openai", "langchain-openai", "new", "langchain_chat", CHAT, "APIStatusError"),
        note="its streams show no id of the response; `include_response_headers=True` does.",
    ),
    Client(
        *("langchain-anthropic", "langchain-anthropic", "new", "langchain_messages", MESSAGES, "PaymentRequiredError"),
        note="its streams show no id of the response, and no usage with `stream_usage=False`.",
    ),
    Client(
        *("pydantic-ai", "pydantic-ai-slim", "new", "pydantic_chat", CHAT, "ModelQuotaExceededError", True, True),
        note="always asks for usage, and runs the tools itself: a cell with tools is two requests.",
    ),
    Client("litellm", "litellm", "new-litellm", "litellm_chat", CHAT, "APIError"),
    Client(
        *("llm", "llm", "new-litellm", "llm_cli", CHAT, "APIStatusError", False, True),
        note="usage is shown with `--usage`, always asked for and logged; it runs the tools itself, and hangs up when "
        "its process ends.",
    ),
)
