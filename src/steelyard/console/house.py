"""What the console needs from the process that serves it. A Protocol; the worker and the tests each bring their own."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection

from steelyard.console.play import PlayEvent, PlayOrder
from steelyard.kernel.clock import Clock
from steelyard.kernel.engines import EngineKnown
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Snapshot


class ConsoleHouse(Protocol):
    """`books` is opened in a thread of the server's pool, never in the event loop; the connection only reads."""

    @property
    def clock(self) -> Clock: ...

    @property
    def secret(self) -> bytes:
        """At least 32 random bytes that all workers share; signs sessions and forms."""
        ...

    @property
    def snapshot(self) -> Snapshot: ...

    def books(self) -> AbstractContextManager[Connection]: ...

    def left_out(self, offer: Offer) -> str:
        """Why this worker asks nothing of the offer now: `open`, `probing` or a Fault; empty when it would."""
        ...

    def engines(self) -> Sequence[EngineKnown]:
        """The engines of this machine, our own first; read from files. Raises StartError for a broken one."""
        ...

    def drain_engine(self, name: str, reason: str) -> None:
        """Nothing new is sent to it, and it is stopped when its answers have ended. Raises CallerError 404."""
        ...

    def restart_engine(self, name: str, reason: str) -> None:
        """Drained and started anew. Raises CallerError 404."""
        ...

    def play(self, order: PlayOrder) -> AsyncGenerator[PlayEvent, None]:
        """An async generator; closing it hangs up, and what had been handed over is settled."""
        ...
