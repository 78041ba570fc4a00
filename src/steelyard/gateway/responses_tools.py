"""Tools in a Responses request: functions of the caller's, what is demanded of them, and how the answer repeats them.

Tools that run at the vendor are refused by name. Pure; knows no engine.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_tools import Choice, Function, Named, Tool, ToolChoice, tool_params
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request


class OfferedTool(msgspec.Struct):
    """A function the caller runs himself. Any other `type` is a tool of the vendor's."""

    type: str
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    output_schema: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """As the answer repeats it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }


class AllowedTool(msgspec.Struct):
    type: str
    name: str | None = None


class ChoiceObject(msgspec.Struct):
    """`tool_choice` that is no word: one tool, or some of those on offer."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[AllowedTool] | None = None


OfferedTools = Annotated[list[OfferedTool], Meta(max_length=limits.TOOLS_MAX)]
AnyChoice = Literal["none", "auto", "required"] | ChoiceObject


def offered(
    tools: list[OfferedTool] | None, choice: AnyChoice | None, parallel: bool | None, loose: list[str]
) -> dict[str, Raw]:
    """The canonical fields of what is offered and demanded. `loose` is told what comes to nothing. Raises CallerError
    400."""
    functions = [_tool(tool, f"tools[{place}]", loose) for place, tool in enumerate(tools or ())]
    demanded: ToolChoice | None
    match choice:
        case ChoiceObject(type="function", name=str(name)):
            demanded = Choice(Named(name))
        case ChoiceObject(type="allowed_tools", tools=list(allowed)):
            functions, demanded = _allowed(functions, allowed), choice.mode or "auto"
        case ChoiceObject(type="function" | "allowed_tools" as kind):
            missing = f"tool_choice.{'name' if kind == 'function' else 'tools'}"
            raise bad_request(f"'{missing}' is missing.", missing)
        case ChoiceObject(type=kind):
            at = "tool_choice.type"
            raise bad_request(f"'{at}' is {kind!r}: only functions can be demanded here.", at)
        case _:
            demanded = choice
    return tool_params(functions, demanded, parallel)


def _allowed(functions: list[Tool], allowed: list[AllowedTool]) -> list[Tool]:
    """Those of the functions that may be called; the others are not even told."""
    offered_names = {tool.function.name for tool in functions}
    for place, one in enumerate(allowed):
        at = f"tool_choice.tools[{place}]"
        if one.type != "function":
            raise bad_request(f"'{at}.type' is {one.type!r}: only functions are offered here.", f"{at}.type")
        if one.name not in offered_names:
            raise bad_request(f"'{at}.name' is {one.name!r}, which 'tools' does not offer.", f"{at}.name")
    names = {one.name for one in allowed}
    return [tool for tool in functions if tool.function.name in names]


def _tool(tool: OfferedTool, where: str, loose: list[str]) -> Tool:
    if tool.type != "function":
        at = f"{where}.type"
        raise bad_request(f"'{at}' is {tool.type!r}: nothing served here brings tools of its own.", at)
    if tool.name is None:
        raise bad_request(f"'{where}.name' is missing.", f"{where}.name")
    if tool.defer_loading:
        raise bad_request(f"'{where}.defer_loading' needs tool search, which is not offered.", f"{where}.defer_loading")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        raise bad_request(f"'{where}.allowed_callers' must hold 'direct'.", f"{where}.allowed_callers")
    if tool.output_schema:
        loose.append(f"{where}.output_schema")
    return Tool(Function(tool.name, tool.description, tool.parameters, tool.strict))
