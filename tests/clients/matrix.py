"""The matrix: which clients are driven, what each is asked in a cell, and what must come back. Starts nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
BROKEN = Cell("broken stream", way="stream", scene="late_error")
RETRIED = Cell("retry", scene="flaky")
CELLS = (*SERVED, LEFT, EMPTY, BROKEN, RETRIED)
BY_NAME = {cell.name: cell for cell in CELLS}


@dataclass(frozen=True, slots=True)
class Client:
    """A client library as it is driven. `unable`: cell → why the library cannot do that by itself."""

    name: str
    package: str
    process: str  # which driver speaks for it
    module: str
    path: str  # the endpoint it calls
    refusal: str  # its own error for an empty wallet
    usage_always: bool = False  # its streams show usage without being asked
    unable: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        return [cell for cell in CELLS if cell.name not in self.unable]


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
CLIENTS: tuple[Client, ...] = (
    Client("openai-python 1.x", "openai", "old", "openai_chat", CHAT, "APIStatusError"),
    Client("openai-node", "openai", "node", "openai_chat", CHAT, "APIError"),
)
