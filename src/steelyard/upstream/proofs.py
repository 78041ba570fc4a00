"""What stands in canonical turns for one kind of upstream only, taken out for the others. Knows no dialect."""

from typing import Any

import msgspec
from msgspec import Raw

_ON_TURNS, _ON_CALLS = "thinking_blocks", "extra_content"
_MARKS = (f'"{_ON_TURNS}"'.encode(), f'"{_ON_CALLS}"'.encode())
SIGN = b"_"
"""In all that is looked for: a text without it proves nothing, and one byte is soon looked for."""
_turns = msgspec.json.Decoder(list[dict[str, Any]])


def without_proofs(messages: Raw) -> Raw:
    """The turns without signed reasoning and without signatures of calls: only whoever signed them can read them."""
    text = bytes(messages)
    if SIGN not in text or not any(mark in text for mark in _MARKS):
        return messages
    return Raw(msgspec.json.encode([_without(turn) for turn in _turns.decode(text)]))


def _without(turn: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in turn.items() if name != _ON_TURNS}
    if kept.get("tool_calls"):
        kept["tool_calls"] = [
            {name: value for name, value in call.items() if name != _ON_CALLS} for call in kept["tool_calls"]
        ]
    return kept
