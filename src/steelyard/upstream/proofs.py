"""What stands in canonical turns for one kind of upstream only, taken out for the others. Knows no dialect."""

from typing import Any

import msgspec
from msgspec import Raw

_FIELD = "thinking_blocks"
_MARK = f'"{_FIELD}"'.encode()
_turns = msgspec.json.Decoder(list[dict[str, Any]])


def without_proofs(messages: Raw) -> Raw:
    """The turns without signed reasoning, which only whoever signed it can read."""
    if _MARK not in bytes(messages):
        return messages
    turns = _turns.decode(messages)
    return Raw(msgspec.json.encode([{name: turn[name] for name in turn if name != _FIELD} for turn in turns]))
