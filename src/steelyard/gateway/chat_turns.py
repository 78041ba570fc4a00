"""The turns of a chat request: what a message may hold, and the canonical form it takes.

Texts in parts are joined unless a part is marked for a cache; images, audio and files pass on for models that read them
(an adapter whose model does not refuses them by name). Knows no engine and no money.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from steelyard.gateway.chat_tools import Cache, Call, CallLog
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request

OUR_SIGNATURE = "steelyard_"
"""Begins the signature of thinking that its upstream did not sign: clients of one dialect want to see some."""

_PLAIN_ROLES = frozenset({"system", "user", "assistant"})
_BEGINS = {role: b'{"role":"%b","content":"' % role.encode() for role in _PLAIN_ROLES}
BEGINNINGS = tuple(_BEGINS.values())
"""How a plain turn begins in the canonical form."""
_TEMPLATE_TOKENS = 256  # a chat template's own text, at most
_MESSAGE_TOKENS = 16  # the marks a template puts around one message, at most


class TextPart(msgspec.Struct, tag="text", omit_defaults=True):
    text: str
    cache_control: Cache | None = None


class RefusalPart(msgspec.Struct, tag="refusal"):
    refusal: str


class ImagePart(msgspec.Struct, tag="image_url", omit_defaults=True):
    image_url: dict[str, Any]
    cache_control: Cache | None = None


class AudioPart(msgspec.Struct, tag="input_audio", omit_defaults=True):
    input_audio: dict[str, Any]
    cache_control: Cache | None = None


class FilePart(msgspec.Struct, tag="file", omit_defaults=True):
    file: dict[str, Any]
    cache_control: Cache | None = None


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class ThinkingBlock(msgspec.Struct, tag="thinking"):
    """Reasoning of an earlier answer, as it was signed."""

    thinking: str
    signature: str | None = None


class RedactedBlock(msgspec.Struct, tag="redacted_thinking"):
    """Reasoning that only its upstream can read."""

    data: str


class Message(msgspec.Struct):
    """One turn as clients send it."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[ThinkingBlock | RedactedBlock] | None = None
    refusal: str | None = None
    function_call: Any = None
    audio: Any = None


class Turn(msgspec.Struct, omit_defaults=True):
    """One turn in the canonical form."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part] | msgspec.UnsetType | None = msgspec.UNSET
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None


class PlainTurn(msgspec.Struct, forbid_unknown_fields=True):
    """What most turns are, as clients send it and in the canonical form alike: a role and a text, and nothing else."""

    role: Literal["system", "user", "assistant"]
    content: str


class UnescapedTurn(msgspec.Struct, forbid_unknown_fields=True):
    """A `PlainTurn` whose text stands in JSON as it is: ASCII, and without a backslash. No string is made of it."""

    role: Literal["system", "user", "assistant"]
    content: msgspec.Raw  # with its quotes


def is_canonical(body: bytes, at: int, end: int, turns: Sequence[PlainTurn | UnescapedTurn]) -> bool:
    """Whether turns that were read from there are surely written like it: each with its role in front, and as long as
    it must be, so that there is no room for blanks, escapes or anything twice."""
    at += 1
    for turn in turns:
        begins = _BEGINS[turn.role]
        if not body.startswith(begins, at):
            return False
        at += len(begins) + _text_bytes(turn.content) + 3  # `"},` or `"}]`
    return at == end


def turns_of(messages: list[Message]) -> list[Turn]:
    """The canonical turns. Raises CallerError 400 that names the field at fault."""
    log = CallLog()
    return [_plain(message) or _turn(message, place, log) for place, message in enumerate(messages)]


def _plain(message: Message) -> Turn | None:
    """What most turns are: a role and a text, and nothing else."""
    role, content = message.role, message.content
    if role not in _PLAIN_ROLES or not isinstance(content, str) or message != Message(role, content):
        return None
    return Turn(role, content)  # type: ignore[arg-type]  # one of those that it may have


def _turn(message: Message, place: int, log: CallLog) -> Turn:
    if message.role == "function" or message.function_call is not None:
        where = f"messages[{place}].{'role' if message.role == 'function' else 'function_call'}"
        raise bad_request(f"'{where}': send 'tool_calls' and turns of the role 'tool' instead.", where)
    if message.audio is not None:
        where = f"messages[{place}].audio"
        raise bad_request(f"'{where}': earlier audio answers cannot be carried over.", where)
    role: Literal["system", "user", "assistant", "tool"] = "system" if message.role == "developer" else message.role
    calls = message.tool_calls or None
    if calls is not None:
        if role != "assistant":
            where = f"messages[{place}].tool_calls"
            raise bad_request(f"'{where}': only an assistant's turn can have tool calls.", where)
        log.made(calls)
    content = _content(message)
    if content is None and not calls:
        raise bad_request(f"'messages[{place}].content' is missing.", f"messages[{place}].content")
    call_id = log.answered(message.tool_call_id, place) if role == "tool" else None
    thought = message.reasoning if message.reasoning_content is None else message.reasoning_content
    turn = Turn(role, content, message.name, calls, call_id)
    if role == "assistant":
        turn.reasoning_content = thought
        turn.thinking_blocks = _proved(message.thinking_blocks or ())
    return turn


def _proved(blocks: Iterable[ThinkingBlock | RedactedBlock]) -> list[dict[str, Any]] | None:
    """What its upstream takes back; our own signature proves nothing to anybody."""
    kept = [
        block
        for block in blocks
        if isinstance(block, RedactedBlock) or (block.signature and not block.signature.startswith(OUR_SIGNATURE))
    ]
    return [msgspec.to_builtins(block) for block in kept] or None


def _content(message: Message) -> str | list[Part] | None:
    content = message.content
    if content is None:
        return message.refusal if message.role == "assistant" else None
    if isinstance(content, str):
        return content
    parts = [TextPart(part.refusal) if isinstance(part, RefusalPart) else part for part in content]
    if all(isinstance(part, TextPart) and part.cache_control is None for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return list(parts)


def prompt_tokens_max(turns: list[Turn], beside_bytes: int) -> int:
    """No byte-level tokenizer makes more tokens than bytes; the template's marks come on top.

    `beside_bytes` is the JSON text that a template may write into the prompt beside the turns. Some write it with
    indents, so it counts twice.
    """
    text = sum(_turn_bytes(turn) for turn in turns)
    return text + _MESSAGE_TOKENS * len(turns) + _TEMPLATE_TOKENS + 2 * beside_bytes


def beside_bytes(params: Mapping[str, msgspec.Raw], unknown: Iterable[str]) -> int:
    """How much there is of that: the tools on offer, the form of the answer, and fields that nobody here knows, whose
    text a model may read (vLLM's `documents`)."""
    return sum(len(params[name]) for name in ("tools", "response_format", *unknown) if name in params)


def plain_tokens_max(turns: Sequence[PlainTurn | UnescapedTurn]) -> int:
    """What these turns count for in `prompt_tokens_max`."""
    tokens = _MESSAGE_TOKENS * len(turns)
    for turn in turns:
        content = turn.content
        tokens += len(content) if type(content) is str and content.isascii() else _text_bytes(content)
    return tokens


def _text_bytes(content: str | msgspec.Raw) -> int:
    """Of a text in UTF-8."""
    if isinstance(content, msgspec.Raw):
        return len(content) - 2  # without its quotes
    return len(content) if content.isascii() else len(content.encode())


def _turn_bytes(turn: Turn) -> int:
    content = turn.content
    if isinstance(content, str):
        size = len(content) if content.isascii() else len(content.encode())
    elif isinstance(content, list):
        size = sum(
            len(part.text.encode()) if isinstance(part, TextPart) else limits.PART_TOKENS_MAX for part in content
        )
    else:
        size = 0
    if turn.name:
        size += len(turn.name.encode())
    if turn.tool_calls or turn.tool_call_id:
        size += 2 * len(msgspec.json.encode(turn.tool_calls)) + limits.CALL_MARK_BYTES
    if turn.reasoning_content:
        size += len(turn.reasoning_content.encode())
    if turn.thinking_blocks:
        size += len(msgspec.json.encode(turn.thinking_blocks))
    return size
