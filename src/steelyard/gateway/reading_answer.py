"""Answers of what only reads: one JSON body, made when the upstream has answered.

Owns the order of things and the count; each dialect composes its own body. Pure text making.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from steelyard.gateway.chat_answer import Bill
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

Compose = Callable[[tuple[msgspec.Raw, ...], dict[str, Any]], dict[str, Any]]
"""Gets what was found, a JSON value per part, and the usage as it is shown; gives the body."""

_encode = msgspec.json.encode


class ReadingBody:
    """One JSON body."""

    content_type = b"application/json"
    shows_usage = True

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._read = Event()

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        self._read = event
        return b""

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        shown: dict[str, Any] = {"prompt_tokens": usage.prompt, "total_tokens": usage.total}
        if bill is not None:
            shown["steelyard"] = bill.shown(estimated=self._read.estimated)
        return _encode(self._compose(self._read.found, shown))

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The answer leaves but for its last brace: until that comes no client takes it for whole."""
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error
