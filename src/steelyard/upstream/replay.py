"""Turns of an assistant handed back with the reasoning they were made with, or without it, as a vendor wants. Pure."""

from typing import Any

import msgspec
from msgspec import Raw

_MARKS = (b'"tool_calls"', b'"tool_call_id"')
_turns = msgspec.json.Decoder(list[dict[str, Any]])


def with_reasoning(messages: Raw) -> Raw:
    """In a conversation that called tools every turn of the assistant has a `reasoning_content`, if an empty one.

    DeepSeek refuses such turns without it, and takes an empty text where the reasoning was not kept; a null it refuses.
    """
    text = bytes(messages)
    if not any(mark in text for mark in _MARKS):
        return messages
    turns = _turns.decode(text)
    for turn in turns:
        if turn.get("role") == "assistant" and turn.get("reasoning_content") is None:
            turn["reasoning_content"] = ""
    return Raw(msgspec.json.encode(turns))


def without_reasoning(messages: Raw) -> Raw:
    """For vendors that refuse a field they do not know."""
    if b'"reasoning_content"' not in bytes(messages):
        return messages
    turns = _turns.decode(messages)
    return Raw(msgspec.json.encode([{n: v for n, v in turn.items() if n != "reasoning_content"} for turn in turns]))
