"""The parties around a paid request, as Protocols: who sets money aside, what comes in, what goes out.

Shapes only. `flow.py` talks to them; workers, the playground and the tests each bring their own.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Granted, HoldAsk, Order, Quote, Snapshot

Sending = Awaitable[None] | None
"""Of a piece that is being sent: to be awaited, until it has left user space; None: it has."""
Told = Callable[[int, Event, Usage], Sending]
"""Whoever is handed what sequences say: which one, its event, the usage of all of them so far. What he returns is to be
awaited before he is handed more."""


class Teller(Protocol):
    """Who sets money aside; `ledger.teller_client` in a worker."""

    @property
    def snapshot(self) -> Snapshot: ...
    def draw(self, ask: HoldAsk) -> Granted | None:
        """What this worker may give by itself, at once; None: `hold` is to be asked."""

    async def hold(self, ask: HoldAsk) -> Granted: ...
    def release(self, request_id: bytes) -> None: ...
    def closed(self) -> None: ...


class Ask(Protocol):
    """What came in: a credential (or a caller known already) and, once that is accepted, the order."""

    @property
    def caller(self) -> Caller | None: ...
    @property
    def authorization(self) -> str | None: ...
    def order(self) -> Order | Awaitable[Order]: ...


class Answer(Protocol):
    """What goes out, in the customer's dialect. What `send` returns is over when the piece has left user space."""

    @property
    def gone(self) -> bool: ...
    @property
    def holds_back(self) -> bool:
        """Whether the bytes without which it is not whole leave when the request is closed, as in a strict house."""

    def begin(self, order: Order, quote: Quote) -> None: ...
    def render(self, sequence: int, event: Event) -> bytes: ...
    def closing(self, usage: Usage) -> bytes: ...
    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The closing piece in two: what is delivered and counted, and the bytes without which it is not whole."""

    def failing(self, error: UpstreamError) -> bytes: ...
    def send(self, piece: bytes) -> Sending:
        """Raises ClientGone, at once or when it is awaited, when the connection is lost."""
