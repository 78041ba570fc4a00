"""Tools in a chat request: what may be offered, what may be demanded, which turns answer which call.

Pure checks of the canonical form, shared by every dialect that is translated into it. Knows no engine.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class Cache(msgspec.Struct, frozen=True):
    """A mark behind which an upstream's cache may end. How long it keeps what is before is not a customer's to choose
    (`ttl`): vendors bill an hour at another price than the one that tariffs know."""

    type: str = "ephemeral"


_encode = msgspec.json.encode
_mark_from = msgspec.json.Decoder(Cache | None).decode


class Function(msgspec.Struct, omit_defaults=True):
    """What a tool is called and takes. `parameters` is a JSON Schema of an object; absent: it takes nothing."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    function: Function
    type: Literal["function"] = "function"
    cache_control: Cache | msgspec.UnsetType | None = msgspec.UNSET


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str = ""


class Call(msgspec.Struct):
    """A tool call in an assistant's turn."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    function: CalledFunction
    type: Literal["function"] = "function"
    extra_content: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET  # as Google signed it


class Named(msgspec.Struct):
    name: str


class Choice(msgspec.Struct):
    """`tool_choice` that demands one tool."""

    function: Named
    type: Literal["function"] = "function"


Tools = Annotated[list[Tool], Meta(max_length=limits.TOOLS_MAX)]
ToolChoice = Literal["none", "auto", "required"] | Choice


def mark_params(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """A mark for all of a prompt, as it is handed on. Raises CallerError 400."""
    if "cache_control" not in fields:
        return {}
    try:
        return {"cache_control": Raw(_encode(_mark_from(fields["cache_control"])))}
    except msgspec.ValidationError as error:
        raise bad_request(f"'cache_control' is no mark for a cache: {error}.", "cache_control") from None


def tool_params(tools: list[Tool] | None, choice: ToolChoice | None, parallel: bool | None) -> dict[str, Raw]:
    """The canonical fields of what is offered and demanded; empty when nothing is. Raises CallerError 400."""
    names = [tool.function.name for tool in tools or ()]
    if not names or choice == "none":
        if choice is not None and choice not in ("none", "auto"):
            raise bad_request("'tool_choice' demands a tool, but 'tools' offers none.", "tool_choice")
        return {}
    if len(set(names)) < len(names):
        raise bad_request("Every tool in 'tools' needs a name of its own.", "tools")
    if isinstance(choice, Choice) and choice.function.name not in names:
        raise bad_request(f"'tool_choice' names {choice.function.name!r}, which 'tools' does not offer.", "tool_choice")
    params = {"tools": Raw(msgspec.json.encode(tools)), "tool_choice": Raw(msgspec.json.encode(choice or "auto"))}
    if parallel is not None:
        params["parallel_tool_calls"] = Raw(msgspec.json.encode(parallel))
    return params


class CallLog:
    """Which calls were made, while the turns are read in order."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def made(self, calls: list[Call]) -> None:
        self._made.update(call.id for call in calls)

    def answered(self, call_id: str | None, place: int) -> str:
        """The id a tool's turn answers. Raises CallerError 400 when no earlier turn made that call."""
        where = f"messages[{place}].tool_call_id"
        if call_id is None:
            raise bad_request(f"'{where}' is missing.", where)
        if call_id not in self._made:
            raise bad_request(f"'{where}' is {call_id!r}, but no earlier assistant turn made that call.", where)
        return call_id
