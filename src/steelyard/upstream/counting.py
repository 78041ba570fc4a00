"""A vendor's own count of a prompt, where it has one: what it is asked and how its answer is read. Pure."""

from dataclasses import dataclass
from typing import Any

import msgspec

_MATTERS = ("messages", "tools")
"""What a prompt is made of."""


class _Counts(msgspec.Struct):
    total_tokens: int | None = None
    prompt_tokens: int | None = None


class _Counted(msgspec.Struct):
    """Moonshot's `data`, Zhipu's `usage`, whose total has what is seen beside what is read."""

    data: _Counts | None = None
    usage: _Counts | None = None


_decoder = msgspec.json.Decoder(_Counted)


@dataclass(frozen=True, slots=True)
class CountAt:
    """`path` lies below the API. A prompt of more than it `takes` is not counted: half a count would be a wrong one."""

    path: str
    takes: tuple[str, ...] = ("messages",)

    def fields(self, sent: dict[str, Any]) -> dict[str, Any] | None:
        """The part of a body that is counted; None where that is not the whole prompt."""
        found = {name: sent[name] for name in _MATTERS if name in sent}
        return None if not found or found.keys() - {*self.takes} else {"model": sent["model"], **found}

    def read(self, body: bytes) -> int | None:
        """None for an answer that is no count."""
        try:
            read = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        counts = read.data or read.usage or _Counts()
        return counts.total_tokens or counts.prompt_tokens
