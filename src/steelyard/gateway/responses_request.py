"""POST /v1/responses: from the customer's JSON to an Order, and to what the answer repeats of it.

Owns validation: every error names the field. `null` means absent. What changes the answer and cannot be carried over is
refused by name; what comes to nothing is named to the caller. Decides nothing about money, routes or storing.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_request import MaxTokens, Samplers, session_of
from steelyard.gateway.chat_tools import mark_params
from steelyard.gateway.chat_turns import Turn, beside_bytes, prompt_tokens_max
from steelyard.gateway.json_body import read_json
from steelyard.gateway.responses_items import Item, Turns
from steelyard.gateway.responses_tools import AnyChoice, OfferedTools, offered
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.records import Order

Include = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
_Key = Annotated[str, Meta(max_length=64)]
_Value = Annotated[str, Meta(max_length=512)]


class Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class Text(msgspec.Struct):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(msgspec.Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: str | None = None
    mode: Literal["standard"] | None = None


class StreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class ResponsesRequest(Samplers, kw_only=True):
    """The fields we read."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[list[Item], Meta(max_length=limits.MESSAGES_MAX)] | None = None
    instructions: str | None = None
    tools: OfferedTools | None = None
    tool_choice: AnyChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: MaxTokens | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: Annotated[dict[_Key, _Value], Meta(max_length=16)] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[Include] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None
    background: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


_SAMPLERS = frozenset(Samplers.__struct_fields__)
_REFUSED = {
    "conversation": "conversations; send 'previous_response_id', or all items as 'input'",
    "prompt": "stored prompts; send 'instructions' and 'input'",
    "context_management": "compaction",
    "moderation": "moderation beside an answer; ask /v1/moderations",
    "background_options": "answers in the background",
    "access_programs": "access programs",
    "image": "images as output",
}
_OTHER_DIALECT = frozenset(
    {
        *("messages", "n", "max_tokens", "max_completion_tokens", "response_format", "functions", "function_call"),
        *("logprobs", "audio", "modalities", "prediction", "web_search_options", "reasoning_effort", "verbosity"),
        *("grammar", "suffix", "echo", "best_of"),
    }
)
_KNOWN = frozenset(ResponsesRequest.__struct_fields__) | {"prompt_cache_options"}
_decoder = msgspec.json.Decoder(ResponsesRequest)
_encode = msgspec.json.encode


class Understood(msgspec.Struct, frozen=True):
    """A request whose fields are what they should be; what it refers to has not been looked at."""

    request: ResponsesRequest
    fields: dict[str, Raw]

    @property
    def is_kept(self) -> bool:
        """Whether the answer is to be stored."""
        return self.request.store is not False

    @property
    def refers(self) -> bool:
        """Whether it goes on from something stored, or refers to it."""
        return self.request.previous_response_id is not None or bool(self.references)

    @property
    def references(self) -> list[str]:
        """Ids of stored items it refers to."""
        items = self.request.input
        if not isinstance(items, list):
            return []
        return [item.id for item in items if item.kind == "item_reference" and item.id]


class Earlier(msgspec.Struct, frozen=True):
    """What was stored: the items a request goes on from, and those it refers to."""

    items: tuple[Item, ...] = ()
    known: dict[str, dict[str, Any]] = {}  # by their ids


class ResponsesOrder(msgspec.Struct, frozen=True):
    """The order and what only the answer's dialect needs."""

    order: Order
    unknown: tuple[str, ...]  # fields that may come to nothing
    places: tuple[str, ...]  # where each canonical turn's content stood
    echo: dict[str, Any]  # what the response repeats of the request
    is_summarised: bool  # reasoning is told as a summary
    is_sealed: bool  # reasoning is handed out once more, to be handed back


def read_responses(body: bytes) -> Understood:
    """Raises CallerError 400 that names the field at fault."""
    request, fields = read_json(body, _decoder)
    for name, what in _REFUSED.items():
        if name in fields and bytes(fields[name]) not in {b"[]", b"{}"}:
            raise bad_request(f"'{name}' is not supported: nothing served here offers {what}.", name)
    for name in fields:
        if name in _OTHER_DIALECT:
            raise bad_request(f"'{name}' is no field of this dialect; it belongs to another endpoint.", name)
    if request.background:
        raise bad_request("'background' is not supported: an answer is given while the request waits.", "background")
    if request.truncation == "auto":
        raise bad_request("'truncation' may only be 'disabled': nothing is left out of a prompt here.", "truncation")
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    if request.input is None and request.previous_response_id is None:
        raise bad_request("'input' is missing.", "input")
    return Understood(request, fields)


def order_of(understood: Understood, request_id: bytes, earlier: Earlier | None = None) -> ResponsesOrder:
    """The order; `earlier` is what it goes on from and refers to. Raises CallerError 400."""
    request, fields = understood.request, understood.fields
    turns = _turns(request, earlier or Earlier())
    unknown = sorted(fields.keys() - _KNOWN - _REFUSED.keys())
    params = {name: fields[name] for name in (*_SAMPLERS, *unknown) if name in fields}
    params["messages"] = Raw(_encode(turns.turns))
    params |= mark_params(fields)
    params |= offered(request.tools, request.tool_choice, request.parallel_tool_calls, turns.loose)
    params |= _shaped(request, turns.loose)
    include = request.include or ()
    if "message.output_text.logprobs" in include:
        params |= {"logprobs": Raw(b"true"), "top_logprobs": Raw(b"%d" % (request.top_logprobs or 0))}
    order = Order(
        request_id=request_id,
        model=request.model,
        params=params,
        prompt_tokens_max=prompt_tokens_max(turns.turns, beside_bytes(params, unknown)),
        max_tokens=request.max_output_tokens,
        sequences=1,
        stream=bool(request.stream),
        session=session_of(fields),
    )
    reasoning = request.reasoning or Reasoning()
    return ResponsesOrder(
        order,
        tuple(sorted({*unknown, *turns.loose})),
        tuple(turns.places),
        _echo(request, fields),
        bool(reasoning.summary or reasoning.generate_summary),
        "reasoning.encrypted_content" in include,
    )


def _turns(request: ResponsesRequest, earlier: Earlier) -> Turns:
    turns = Turns({item_id: msgspec.convert(item, Item) for item_id, item in earlier.known.items()})
    if request.instructions is not None:
        turns.add(Turn("system", request.instructions), "instructions")
    begin = len(turns.places)
    for item in earlier.items:
        turns.take(item, "previous_response_id")
    turns.places[begin:] = ["previous_response_id"] * (len(turns.places) - begin)
    turns.loose.clear()
    if isinstance(request.input, str):
        turns.add(Turn("user", request.input), "input")
    for place, item in enumerate(request.input if isinstance(request.input, list) else ()):
        turns.take(item, f"input[{place}]")
    if not turns.turns:
        raise bad_request("'input' holds nothing to answer.", "input")
    return turns


def _shaped(request: ResponsesRequest, loose: list[str]) -> dict[str, Raw]:
    """How hard to think, how long and in which form to answer, under their canonical names."""
    text, reasoning = request.text or Text(), request.reasoning or Reasoning()
    params: dict[str, Raw] = {}
    if reasoning.effort is not None:
        params["reasoning_effort"] = Raw(_encode(reasoning.effort))
    if reasoning.context is not None:
        loose.append("reasoning.context")
    if text.verbosity is not None:
        params["verbosity"] = Raw(_encode(text.verbosity))
        loose.append("text.verbosity")
    form = text.format
    if form is not None and form.type == "json_object":
        params["response_format"] = Raw(b'{"type":"json_object"}')
    if form is not None and form.type == "json_schema":
        if form.schema is None:
            raise bad_request("'text.format.schema' is missing for type json_schema.", "text.format.schema")
        beside = {"strict": form.strict, "description": form.description}
        schema: dict[str, Any] = {"name": form.name or "answer", "schema": form.schema}
        schema |= {name: value for name, value in beside.items() if value is not None}
        params["response_format"] = Raw(_encode({"type": "json_schema", "json_schema": schema}))
    return params


def _echo(request: ResponsesRequest, fields: dict[str, Raw]) -> dict[str, Any]:
    """What the response repeats of the request, in the order clients are used to; defaults where nothing was said."""
    reasoning, text = request.reasoning or Reasoning(), request.text or Text()

    def said(name: str, default: object = None) -> object:
        return fields.get(name, default)

    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary or reasoning.generate_summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": said("temperature", 1.0),
        "text": {"format": _format(text.format, fields), "verbosity": text.verbosity or "medium"},
        "tool_choice": said("tool_choice", "auto"),
        "tools": [tool.shown() for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": said("top_p", 1.0),
        "truncation": "disabled",
        "user": request.user,
        "metadata": request.metadata or {},
    }


def _format(form: Format | None, fields: dict[str, Raw]) -> object:
    if form is None or form.type == "text":
        return {"type": "text"}
    return msgspec.json.decode(fields["text"])["format"]
