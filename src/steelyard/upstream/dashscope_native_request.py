"""An order as a request of DashScope's own API: which field becomes which, and what is refused by name.

Everything but the turns lies under `parameters`; models that see and hear are asked at a path of their own, where each
turn is a list of parts. Fields nobody here knows are passed on. Pure; knows no connection and no answer.
"""

import re
from typing import Any

import msgspec

from steelyard.upstream.dashscope import PRICED_APART, bounds_of, check_marks, choice_of
from steelyard.upstream.proofs import without_proofs
from steelyard.upstream.thinking import WORDS
from steelyard.upstream.vendor import WITHHELD, Asked
from steelyard.upstream.whose import not_carried

TEXT_PATH = "/services/aigc/text-generation/generation"
PARTS_PATH = "/services/aigc/multimodal-generation/generation"

_OURS = frozenset({"messages", "result_format", "incremental_output", "stream_output_format"})
"""The form of the answer is ours to choose."""

CANNOT = frozenset({"frequency_penalty", "logit_bias", "min_p", "typical_p", "grammar", "verbosity", "prediction"})
"""Fields of other dialects that change an answer and that this one has no word for."""

_KNOWN = WITHHELD | CANNOT | PRICED_APART | _OURS | WORDS
_NEUTRAL = frozenset({b"0", b"0.0", b"1", b"1.0", b"{}", b'""'})
_SEES_AND_HEARS = re.compile(r"-vl\b|^qvq|-omni\b|-ocr\b|-audio\b", re.IGNORECASE)
"""Names of models that answer at the path for parts only, whatever they are sent."""

_PARTS = {"image_url": ("image", "url"), "video_url": ("video", "url"), "input_audio": ("audio", "data")}
_encode = msgspec.json.encode
_turns = msgspec.json.Decoder(list[dict[str, Any]])


class Sent(msgspec.Struct, frozen=True):
    """A request, and where it goes."""

    path: str
    body: bytes


def request_of(asked: Asked) -> Sent:
    """Raises UpstreamError 400 that names the field which cannot be carried over."""
    upstream, params = asked.upstream, asked.params
    if "prompt" in params:
        raise not_carried(upstream, "prompt", "this model answers conversations only; ask /v1/chat/completions")
    for name in sorted(CANNOT & params.keys()):
        if bytes(params[name]) not in _NEUTRAL:
            raise not_carried(upstream, name, "this model has nothing like it; leave it out")
    check_marks(upstream, params)
    in_parts, turns = _turns_of(asked)
    parameters: dict[str, Any] = {name: value for name, value in params.items() if name not in _KNOWN}
    parameters |= {"result_format": "message", "incremental_output": True} | bounds_of(asked) | choice_of(asked)
    body = {"model": asked.model, "input": {"messages": turns}, "parameters": parameters}
    return Sent(PARTS_PATH if in_parts else TEXT_PATH, _encode(body))


def _turns_of(asked: Asked) -> tuple[bool, Any]:
    """Whether they go where parts go, and the turns in this dialect's form."""
    raw, sees = asked.params["messages"], bool(_SEES_AND_HEARS.search(asked.model))
    if not sees and bytes(raw).count(b"[") == 1 and b'"reasoning_content"' not in bytes(raw):
        return False, raw  # roles and texts: a part or a call needs a second list
    turns = [_turn(turn) for turn in _turns.decode(without_proofs(raw))]
    in_parts = sees or any(map(_is_more_than_text, turns))
    for place, turn in enumerate(turns):
        turn["content"] = _content(asked.upstream, turn.get("content"), f"messages[{place}]", in_parts)
    return in_parts, turns


def _turn(turn: dict[str, Any]) -> dict[str, Any]:
    """Reasoning is not handed back to this vendor."""
    return {name: value for name, value in turn.items() if name != "reasoning_content"}


def _is_more_than_text(turn: dict[str, Any]) -> bool:
    content = turn.get("content")
    return isinstance(content, list) and any(part["type"] != "text" for part in content)


def _content(upstream: str, content: Any, where: str, in_parts: bool) -> Any:
    """A text, or the parts in this dialect's form where they are needed: a mark for the cache stands on a part."""
    if not isinstance(content, list):
        return [{"text": content or ""}] if in_parts else content or ""
    if not in_parts and not any("cache_control" in part for part in content):
        return "".join(part["text"] for part in content)
    return [_part(upstream, part, where) for part in content]


def _part(upstream: str, part: dict[str, Any], where: str) -> dict[str, Any]:
    mark = {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
    if part["type"] == "text":
        return {"text": part["text"], **mark}
    name, field = _PARTS.get(part["type"], ("", ""))
    held = part.get(part["type"])
    if not name or not isinstance(held, dict) or not isinstance(held.get(field), str):
        raise not_carried(upstream, where, f"parts of the type {part['type']!r} are not read by this model")
    value = held[field]
    if name == "audio" and not value.startswith(("http://", "https://", "data:")):
        value = f"data:audio/{held.get('format', 'wav')};base64,{value}"
    return {name: value, **mark}
