"""POST /v1/messages and /v1/messages/count_tokens: from the customer's JSON to an Order.

Owns validation: every error names the field. `null` means absent. What changes the answer and cannot be carried over is
refused by name; hints that no model here could use, and what we do not know, are named to the caller. Decides nothing
about money or routes.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_request import REFUSED, ChatRequest, Stop
from steelyard.gateway.chat_tools import Cache, Choice, Function, Named, Tool, ToolChoice, mark_params, tool_params
from steelyard.gateway.chat_turns import beside_bytes, prompt_tokens_max
from steelyard.gateway.json_body import read_json
from steelyard.gateway.messages_blocks import Message, Text, Turns
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.records import Order


class OfferedTool(msgspec.Struct):
    """A tool the caller runs himself. Any other `type` is a tool of the vendor's."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")]
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: Cache | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    input_examples: list[Any] | None = None


class AnyTool(msgspec.Struct, tag="any"):
    disable_parallel_tool_use: bool | None = None


class AutoTool(msgspec.Struct, tag="auto"):
    disable_parallel_tool_use: bool | None = None


class NoTool(msgspec.Struct, tag="none"):
    pass


class OneTool(msgspec.Struct, tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """What makes a prompt."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    system: str | list[Text] | None = None
    tools: Annotated[list[OfferedTool], Meta(max_length=limits.TOOLS_MAX)] | None = None
    tool_choice: AutoTool | AnyTool | OneTool | NoTool | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    stream: bool | None = None
    stop_sequences: Stop | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["standard"] | None = None
    cache_control: Cache | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A prompt, and how much may be answered."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]


_SAME_NAME = ("temperature", "top_p", "top_k", "thinking")
_REFUSED = {
    "container": "containers",
    "mcp_servers": "MCP servers",
    "inference_geo": "a choice of where the model runs",
    "fallbacks": "other models to fall back to",
}
_HINTS = frozenset(
    {"context_management", "diagnostics", "betas", "anthropic_version", "workspace_id", "user_profile_id"}
)
_KNOWN = frozenset(CountRequest.__struct_fields__)
_OTHER_DIALECT = frozenset({*ChatRequest.__struct_fields__, *REFUSED, "modalities", "ignore_eos"}) - _KNOWN
_decoder = msgspec.json.Decoder(MessagesRequest)
_count_decoder = msgspec.json.Decoder(CountRequest)
_encode = msgspec.json.encode


class MessagesOrder(msgspec.Struct, frozen=True):
    """The order and what only the answer's dialect needs."""

    order: Order
    unknown: tuple[str, ...]  # fields that may come to nothing
    is_thinking_shown: bool
    places: tuple[str, ...]  # where each canonical turn stood


def parse_messages(body: bytes, request_id: bytes, betas: str | None = None) -> MessagesOrder:
    """`betas` is the header anthropic-beta, kept for upstreams of this dialect. Raises CallerError 400."""
    return _parsed(*read_json(body, _decoder), request_id, betas)


def parse_count(body: bytes, request_id: bytes, betas: str | None = None) -> MessagesOrder:
    """The same for a prompt that is only counted."""
    return _parsed(*read_json(body, _count_decoder), request_id, betas)


def _parsed(request: CountRequest, fields: dict[str, Raw], request_id: bytes, betas: str | None) -> MessagesOrder:
    for name, what in _REFUSED.items():
        if name in fields and bytes(fields[name]) not in {b"[]", b"{}"}:
            raise bad_request(f"'{name}' is not supported: nothing served here offers {what}.", name)
    for name in fields:
        if name in _OTHER_DIALECT:
            raise bad_request(f"'{name}' is no field of this dialect; it belongs to /v1/chat/completions.", name)
    turns = Turns()
    if request.system:
        turns.system(request.system)
    for place, message in enumerate(request.messages):
        turns.take(message, place)
    unknown = sorted(set(fields) - _KNOWN - _HINTS - _REFUSED.keys())
    params = {name: fields[name] for name in (*_SAME_NAME, *unknown) if name in fields}
    params["messages"] = Raw(_encode(turns.turns))
    params |= mark_params(fields)
    params |= _offered(request, turns.loose)
    params |= _shaped(request)
    if request.stop_sequences:
        params["stop"] = Raw(_encode(request.stop_sequences))
    if betas:
        params["anthropic_beta"] = Raw(_encode([beta.strip() for beta in betas.split(",")]))
    order = Order(
        request_id=request_id,
        model=request.model,
        params=params,
        prompt_tokens_max=prompt_tokens_max(turns.turns, beside_bytes(params, unknown)),
        max_tokens=request.max_tokens,
        sequences=1,
        stream=bool(request.stream),
        session=((request.metadata and request.metadata.user_id) or "").encode(),
    )
    named = sorted({*unknown, *turns.loose, *(_HINTS & fields.keys())})
    shown = request.thinking is None or request.thinking.display != "omitted"
    return MessagesOrder(order, tuple(named), shown, tuple(turns.places))


def _offered(request: CountRequest, loose: list[str]) -> dict[str, Raw]:
    tools = [_tool(tool, f"tools[{place}]", loose) for place, tool in enumerate(request.tools or ())]
    choice: ToolChoice | None = None
    parallel: bool | None = None
    match request.tool_choice:
        case AutoTool(disable_parallel_tool_use=disabled):
            choice, parallel = "auto", disabled
        case AnyTool(disable_parallel_tool_use=disabled):
            choice, parallel = "required", disabled
        case OneTool(name=name, disable_parallel_tool_use=disabled):
            choice, parallel = Choice(Named(name)), disabled
        case NoTool():
            choice = "none"
    return tool_params(tools, choice, None if parallel is None else not parallel)


def _tool(tool: OfferedTool, where: str, loose: list[str]) -> Tool:
    if tool.type not in {None, "custom"}:
        at = f"{where}.type"
        raise bad_request(f"'{at}' is {tool.type!r}: nothing served here brings tools of its own.", at)
    if tool.input_schema is None:
        raise bad_request(f"'{where}.input_schema' is missing.", f"{where}.input_schema")
    if tool.defer_loading:
        raise bad_request(f"'{where}.defer_loading' needs tool search, which is not offered.", f"{where}.defer_loading")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        raise bad_request(f"'{where}.allowed_callers' must hold 'direct'.", f"{where}.allowed_callers")
    if tool.input_examples:
        loose.append(f"{where}.input_examples")
    function = Function(tool.name, tool.description, tool.input_schema, tool.strict)
    return Tool(function, cache_control=msgspec.UNSET if tool.cache_control is None else tool.cache_control)


def _shaped(request: CountRequest) -> dict[str, Raw]:
    """How hard to think and which form to answer in, under their canonical names."""
    config = request.output_config or OutputConfig()
    form = config.format or request.output_format
    params: dict[str, Raw] = {}
    if config.effort is not None:
        params["reasoning_effort"] = Raw(_encode(config.effort))
    if form is not None:
        schema = {"name": "answer", "schema": form.schema, "strict": True}
        params["response_format"] = Raw(_encode({"type": "json_schema", "json_schema": schema}))
    return params
