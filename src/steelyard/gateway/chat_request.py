"""POST /v1/chat/completions: from the customer's JSON to an Order.

Owns validation: every error names the field. `null` means absent. What this platform cannot carry over is refused by
name; what it does not know stays in the order for upstreams that know it, and is named to the caller. Decides nothing
about money or routes.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_tools import ToolChoice, Tools, mark_params, tool_params
from steelyard.gateway.chat_turns import Message, beside_bytes, prompt_tokens_max, turns_of
from steelyard.gateway.json_body import read_json
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.records import Order

Penalty = Annotated[float, Meta(ge=-2, le=2)]
MaxTokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sequences = Annotated[int, Meta(ge=1, le=limits.SEQUENCES_MAX)]
Stop = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=limits.STOP_SEQUENCES_MAX)]


class JsonSchema(msgspec.Struct):
    schema: dict[str, Any]
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Samplers(msgspec.Struct, kw_only=True):
    """How to choose the next token. Ranges are the OpenAI dialect's, the engine's own samplers included."""

    stop: str | Stop | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    xtc_probability: Annotated[float, Meta(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Meta(ge=0, le=1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None


class ChatRequest(Samplers, kw_only=True):
    """The fields we read."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MESSAGES_MAX)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    n: Sequences | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


_READ_HERE = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options"),
        *("response_format", "tools", "tool_choice", "parallel_tool_calls", "service_tier"),
    }
)
_FORWARDED = frozenset(ChatRequest.__struct_fields__) - _READ_HERE
REFUSED = {
    "prompt": "prompts here; they belong to /v1/completions",
    "functions": "functions of the old kind; send 'tools'",
    "function_call": "functions of the old kind; send 'tool_choice'",
    "audio": "audio output",
    "prediction": "predicted outputs",
    "web_search_options": "web search",
    "grammar": "raw grammars; send 'response_format'",
}
"""Fields of a chat that are refused, and what they would need. Some have prices of their own at vendors."""
HARMLESS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "modalities"})
_NOT_FORWARDED = _READ_HERE | HARMLESS
_TRUE = b"true"
_KNOWN = _NOT_FORWARDED | _FORWARDED
_request_decoder = msgspec.json.Decoder(ChatRequest)


class ChatOrder(msgspec.Struct, frozen=True):
    """The order and what only the answer's dialect needs."""

    order: Order
    include_usage: bool
    unknown: tuple[str, ...]  # fields that may come to nothing; those we do not know are in the order all the same
    tier: str | None = None  # what to answer as `service_tier`; there is one tier


def parse_chat(body: bytes, request_id: bytes) -> ChatOrder:
    """Raises CallerError 400 that names the field at fault."""
    request, fields = read_json(body, _request_decoder)
    _refuse(fields)
    include_usage = usage_wanted(request.stream_options, request.stream)
    if request.top_logprobs and not request.logprobs:
        raise bad_request("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
    turns = turns_of(request.messages)
    unknown = () if fields.keys() <= _KNOWN else tuple(sorted(fields.keys() - _KNOWN))
    if "store" in fields and bytes(fields["store"]) == _TRUE:  # chats are not kept for a later look
        unknown = (*unknown, "store")
    params = {name: raw for name, raw in fields.items() if name not in _NOT_FORWARDED}
    params["messages"] = Raw(msgspec.json.encode(turns))
    params |= mark_params(fields)
    params |= tool_params(request.tools, request.tool_choice, request.parallel_tool_calls)
    if (form := _response_format(request.response_format, fields)) is not None:
        params["response_format"] = form
    order = Order(
        request_id=request_id,
        model=request.model,
        params=params,
        prompt_tokens_max=prompt_tokens_max(turns, beside_bytes(params, unknown)),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        sequences=request.n or 1,
        stream=bool(request.stream),
        session=session_of(fields),
    )
    return ChatOrder(order, include_usage, unknown, "default" if request.service_tier else None)


def session_of(fields: dict[str, Raw]) -> bytes:
    """What OpenAI's clients call requests that belong together: any JSON value; empty without one."""
    return bytes(fields.get("prompt_cache_key") or fields.get("user") or b"")


def usage_wanted(options: StreamOptions | None, stream: bool | None) -> bool:
    """Whether the stream is to end with its usage. Raises CallerError 400 when there is no stream."""
    if options is not None and not stream:
        raise bad_request("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    return bool(options and options.include_usage)


def _refuse(fields: dict[str, Raw]) -> None:
    for name, what in REFUSED.items() if not REFUSED.keys().isdisjoint(fields) else ():
        if name in fields and bytes(fields.pop(name)) != b"[]":  # an empty list is nothing
            raise bad_request(f"'{name}' is not supported: nothing served here offers {what}.", name)
    modalities = fields.get("modalities")
    if modalities is not None and bytes(modalities).replace(b" ", b"") != b'["text"]':
        raise bad_request("'modalities' may only be [\"text\"] for the models served here.", "modalities")


def _response_format(form: ResponseFormat | None, fields: dict[str, Raw]) -> Raw | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_schema" and form.json_schema is None:
        raise bad_request(
            "'response_format.json_schema' is missing for type json_schema.", "response_format.json_schema"
        )
    return fields["response_format"]
