"""Commands that only a worker can answer: what it knows of upstreams is in its memory and nowhere else.

The books pass them on and wait for a moment. Owns the tickets; knows no command and no answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, unavailable
from steelyard.ledger import wire

ERRANDS = frozenset({"route.explain"})


class Worker(Protocol):
    """A worker's session."""

    def send(self, number: int, op: str, payload: object) -> None: ...


class Errands:
    """Those that are under way. `workers` are the sessions by the series of their journals."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last = 0

    async def run(self, op: str, payload: dict[str, Any]) -> Any:
        """Ask the first worker. Raises its CallerError, or 503 when there is none or it does not answer in time."""
        if not self._workers:
            raise no_worker()
        series = min(self._workers)
        self._last += 1
        ticket, future = self._last, asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        try:
            self._workers[series].send(wire.NOTICE, "errand", wire.Errand(ticket, op, payload))
            async with asyncio.timeout(limits.ERRAND_S):
                return {"worker": series, "workers": len(self._workers), **await future}
        except TimeoutError:
            raise unavailable("worker_unavailable", "The worker does not answer. Try again in a moment.") from None
        finally:
            del self._waiting[ticket]

    def done(self, done: wire.Done) -> None:
        """A worker's answer; one that comes too late is dropped."""
        future = self._waiting.get(done.ticket)
        if future is None or future.done():
            return
        if done.refusal is None:
            future.set_result(done.answer)
        else:
            future.set_exception(wire.error_of(done.refusal))


def no_worker() -> CallerError:
    """Nobody runs that could tell."""
    return unavailable("worker_unavailable", "Only a running worker knows that. Start the platform: 'steelyard up'.")
