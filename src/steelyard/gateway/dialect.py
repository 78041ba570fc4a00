"""What tells one dialect from another: how a body becomes an order, an event bytes, and a refusal an answer.

Shapes only. `exchange.py` binds any dialect to the wire and the flow; each dialect has files of its own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.wire import Headers, Scope
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.left import Left
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order

_CONTENT = re.compile(r"messages\[(\d+)\]\.content")


class Form(Protocol):
    """One answer in the making, as a stream or as one body. Makes bytes, sends none."""

    bill: Callable[[Usage], Bill] | None

    @property
    def content_type(self) -> bytes: ...
    def render(self, sequence: int, event: Event) -> bytes: ...
    def closing(self, usage: Usage) -> bytes: ...
    def parted(self, closing: bytes) -> tuple[bytes, bytes]: ...
    def failing(self, error: UpstreamError) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood."""

    order: Order
    form: Form
    unknown: tuple[str, ...]  # fields that may come to nothing, for a header
    places: tuple[str, ...] = ()  # what the content of each canonical turn is called in this dialect, where it differs

    def in_own_words(self, error: UpstreamError) -> UpstreamError:
        """An upstream's refusal of a canonical turn, told about the field that the customer sent."""

        def own(found: re.Match[str]) -> str:
            turn = int(found[1])
            return self.places[turn] if turn < len(self.places) else found[0]

        if not self.places:
            return error
        message, param = _CONTENT.sub(own, error.message), error.param and _CONTENT.sub(own, error.param)
        return UpstreamError(error.upstream, message, status=error.status, retryable=error.retryable, param=param)


class Dialect(Protocol):
    """How one family of clients asks and is answered."""

    @property
    def name(self) -> bytes: ...
    @property
    def stream_end(self) -> bytes:
        """What a whole stream ends with, and no cut one."""
        ...

    def authorization(self, scope: Scope) -> str | None:
        """The caller's key as `Bearer …`, wherever this dialect carries it."""

    def read(self, body: bytes, scope: Scope, request_id: bytes, created_ns: int) -> Asked:
        """Raises CallerError 400 that names the field at fault."""

    def rates(self, left: Left, now_ns: int) -> Headers:
        """What the caller's limits per minute leave to him."""

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        """Status, headers and body of an error answer."""
