"""What tells one dialect from another: how a body becomes an order, an event bytes, and a refusal an answer.

Shapes only. `exchange.py` binds any dialect to the wire and the flow; each dialect has files of its own.
"""

import re
from typing import Protocol

import msgspec

from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.wire import Body, Headers, Heads
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError, bad_request
from steelyard.kernel.left import Left
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order

FALLBACKS = "x-steelyard-fallbacks"
_TURN = re.compile(r"messages\[(\d+)\](?:\.content((?:\[\d+\])?)|(?:\.\w+(?:\[\d+\])*)*)")
_FIELD = re.compile(r"(?<=')[a-z_]+(?:\[\d+\]|\.[a-z_]+)*(?=')")
_replace = msgspec.structs.replace
Names = tuple[tuple[re.Pattern[str], str], ...]
"""Canonical fields, as patterns, and what a dialect calls them."""


class Form(Protocol):
    """One answer in the making, as a stream or as one body. Makes bytes, sends none."""

    @property
    def content_type(self) -> bytes: ...
    @property
    def shows_usage(self) -> bool:
        """Whether `closing` has a use for the bill."""
        ...

    def render(self, sequence: int, event: Event) -> bytes: ...
    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        """What follows the last event; `bill`: what that usage costs."""
        ...

    def parted(self, closing: bytes) -> tuple[bytes, bytes]: ...
    def failing(self, error: UpstreamError) -> bytes: ...


class Asked(msgspec.Struct, frozen=True):
    """A request that was understood."""

    order: Order
    form: Form
    unknown: tuple[str, ...]  # fields that may come to nothing, for a header
    places: tuple[str, ...] = ()  # what the content of each canonical turn is called in this dialect, where it differs
    names: Names = ()

    def in_session(self, session: bytes) -> "Asked":
        """The same, in a session that the customer names in a header."""
        return _replace(self, order=_replace(self.order, session=session))

    def with_fallbacks(self, header: bytes) -> "Asked":
        """The same, with models that may answer in its place, as the customer names them in a header, by commas.

        Raises CallerError 400 for too many.
        """
        names = tuple(name.strip() for name in header.decode("utf-8", "replace").split(",") if name.strip())
        if len(names) > limits.FALLBACKS_MAX:
            raise bad_request(f"{FALLBACKS} names at most {limits.FALLBACKS_MAX} models.", FALLBACKS)
        return _replace(self, order=_replace(self.order, fallbacks=names))

    def with_reuse(self, header: bytes) -> "Asked":
        """The same, with the customer's word about answers that were given before."""
        return _replace(self, order=_replace(self.order, reuse=header.decode("utf-8", "replace")))

    def in_own_words(self, error: UpstreamError) -> UpstreamError:
        """An upstream's refusal of a canonical field, told about the field that the customer sent."""
        if not self.places and not self.names:
            return error
        return UpstreamError(
            error.upstream,
            _FIELD.sub(lambda found: self._own(found[0]), error.message),
            status=error.status,
            retryable=error.retryable,
            param=error.param and self._own(error.param),
            retry_after_s=error.retry_after_s,
        )

    def _own(self, field: str) -> str:
        if self.places and (turn := _TURN.fullmatch(field)) and int(turn[1]) < len(self.places):
            return self.places[int(turn[1])] + (turn[2] or "")
        for pattern, name in self.names:
            field = pattern.sub(name, field)
        return field


class Dialect(Protocol):
    """How one family of clients asks and is answered."""

    @property
    def name(self) -> bytes: ...
    @property
    def stream_end(self) -> bytes:
        """What a whole stream ends with, and no cut one."""
        ...

    def authorization(self, heads: Heads) -> str | None:
        """The caller's key as `Bearer …`, wherever this dialect carries it."""

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        """Raises CallerError 400 that names the field at fault."""

    def rates(self, left: Left, now_ns: int) -> Headers:
        """What the caller's limits per minute leave to him."""

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        """Status, headers and body of an error answer."""
