"""Reasoning as `encrypted_content`, for callers who have nothing stored and hand it back.

It is the caller's own, so it is only wrapped. Where an upstream signed it, the blocks are in it as they were.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from steelyard.gateway.chat_turns import RedactedBlock, ThinkingBlock

SEALED = "steelyard."
PROVED = "steelyard:"
"""How what we handed out begins: words alone, or with blocks that their upstream signed."""


class Sealed(msgspec.Struct):
    """What is in it; nothing when it is not ours."""

    text: str = ""
    blocks: list[ThinkingBlock | RedactedBlock] = []

    @property
    def proved(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(block) for block in self.blocks]


_decoder = msgspec.json.Decoder(Sealed)


def sealed(text: str, blocks: Sequence[dict[str, Any]] = ()) -> str:
    """What a caller keeps for us."""
    if not blocks:
        return SEALED + base64.urlsafe_b64encode(text.encode()).decode()
    return PROVED + base64.urlsafe_b64encode(msgspec.json.encode({"text": text, "blocks": blocks})).decode()


def unsealed(content: str | None) -> Sealed:
    """What a caller kept for us."""
    try:
        if content is not None and content.startswith(SEALED):
            return Sealed(base64.urlsafe_b64decode(content[len(SEALED) :]).decode())
        if content is not None and content.startswith(PROVED):
            return _decoder.decode(base64.urlsafe_b64decode(content[len(PROVED) :]))
    except (binascii.Error, ValueError, msgspec.DecodeError):  # a UnicodeDecodeError is a ValueError
        pass
    return Sealed()
