"""POST /v1/completions: from the customer's JSON to an Order with one prompt per sequence.

The old dialect: prompts are texts or token ids, one or a list of them, each gone on from `n` times. An engine counts
such lists wrongly (measured: two prompts counted as one), so every sequence is one of the order's own.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_request import (
    HARMLESS,
    ChatOrder,
    MaxTokens,
    Samplers,
    Sequences,
    StreamOptions,
    session_of,
    usage_wanted,
)
from steelyard.gateway.json_body import read_json
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.records import Order

_MAX_TOKENS_DEFAULT = 16  # of the dialect
ADDED_TOKENS = 16  # what a tokenizer may put around a prompt, at most

TokenIds = list[Annotated[int, Meta(ge=0, lt=2**31)]]


class CompletionRequest(Samplers, kw_only=True):
    """The fields we read."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: Raw
    max_tokens: MaxTokens | None = None
    n: Sequences | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


_FORWARDED = frozenset(Samplers.__struct_fields__)
_KNOWN = frozenset(CompletionRequest.__struct_fields__) | HARMLESS
_request_decoder = msgspec.json.Decoder(CompletionRequest)
_shapes: tuple[tuple[msgspec.json.Decoder[Any], bool], ...] = (
    (msgspec.json.Decoder(str), False),
    (msgspec.json.Decoder(list[str]), True),
    (msgspec.json.Decoder(TokenIds), False),
    (msgspec.json.Decoder(list[TokenIds]), True),
)
"""What a prompt may be, and whether it is a list of prompts."""


def parse_completion(body: bytes, request_id: bytes) -> ChatOrder:
    """Raises CallerError 400 that names the field at fault."""
    request, fields = read_json(body, _request_decoder)
    include_usage = usage_wanted(request.stream_options, request.stream)
    copies = request.n or 1
    _refuse(request, copies, fields)
    prompts = [prompt for prompt in _prompts(request.prompt) for _ in range(copies)]
    if len(prompts) > limits.PROMPTS_TIMES_N_MAX:
        raise bad_request(
            f"'prompt' times 'n' makes {len(prompts)} answers; at most {limits.PROMPTS_TIMES_N_MAX} are given at once.",
            "prompt",
        )
    unknown = tuple(sorted(set(fields) - _KNOWN))
    params = {name: raw for name, raw in fields.items() if name in _FORWARDED or name in unknown}
    raws = tuple(Raw(msgspec.json.encode(prompt)) for prompt in prompts)
    params["prompt"] = raws[0]
    if request.logprobs is not None:
        params |= {"logprobs": Raw(b"true"), "top_logprobs": Raw(b"%d" % request.logprobs)}
    order = Order(
        request_id=request_id,
        model=request.model,
        params=params,
        prompt_tokens_max=max(_tokens_max(prompt) for prompt in prompts),
        max_tokens=request.max_tokens or _MAX_TOKENS_DEFAULT,
        sequences=len(prompts),
        stream=bool(request.stream),
        prompts=raws,
        session=session_of(fields),
    )
    return ChatOrder(order, include_usage, unknown)


def _refuse(request: CompletionRequest, copies: int, fields: dict[str, Raw]) -> None:
    if request.echo:
        raise bad_request("'echo' is not supported; put the prompt before the answer yourself.", "echo")
    if request.suffix:
        raise bad_request("'suffix' is not supported: nothing served here fills a gap in a text.", "suffix")
    if request.best_of is not None and request.best_of != copies:
        raise bad_request("'best_of' may only be the same as 'n': every answer made is charged and given.", "best_of")
    if "messages" in fields:
        raise bad_request("'messages' belong to /v1/chat/completions.", "messages")


def _prompts(raw: Raw) -> list[str] | list[TokenIds]:
    """The prompts one by one."""
    for decoder, is_list in _shapes:
        try:
            found = decoder.decode(raw)
        except msgspec.ValidationError:
            continue
        prompts = found if is_list else [found]
        if not prompts or not all(prompts):
            raise bad_request("'prompt' must not be empty.", "prompt")
        return prompts
    raise bad_request(
        "'prompt' must be a text, a list of texts, a list of token ids or a list of such lists.", "prompt"
    )


def _tokens_max(prompt: str | TokenIds) -> int:
    """No byte-level tokenizer makes more tokens than bytes."""
    return ADDED_TOKENS + (len(prompt.encode()) if isinstance(prompt, str) else len(prompt))
