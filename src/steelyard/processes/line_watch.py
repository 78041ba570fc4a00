"""Who waits in a worker's lines before the platform's own engines, in files where people look after engines.

For watching only. An engine with a line of its own tells that itself. Knows no engine and no line.
"""

import asyncio
import contextlib
from collections.abc import Callable

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import LineSeen
from steelyard.kernel.errors import StartError
from steelyard.processes import engine_files

Waiting = Callable[[str], tuple[int, int] | None]
"""Name of an engine → who waits before it, and how many of them in the batch lane; None: there is no line here."""


class LineWatch:
    """One per worker."""

    def __init__(self, data: DataDir, worker: int, waiting: Waiting, clock: Clock) -> None:
        self._data = data
        self._worker = worker
        self._waiting = waiting
        self._clock = clock
        self._told: dict[str, LineSeen] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(limits.ENGINE_SEEN_MS / 1000)
            for name, seen in self.due():
                with contextlib.suppress(StartError):  # a full disk ends no answer
                    await asyncio.to_thread(engine_files.put_line, self._data, name, self._worker, seen)

    def due(self) -> list[tuple[str, LineSeen]]:
        """What is to be written down now: what has changed, and now and then what has not."""
        found: list[tuple[str, LineSeen]] = []
        now_ns = self._clock.now_ns()
        for name in engine_files.OURS:
            if (waiting := self._waiting(name)) is None:
                continue
            before, now = self._told.get(name), LineSeen(now_ns, *waiting)
            old = before is None or now_ns - before.seen_ns >= limits.ENGINE_SEEN_REST_S * NS_PER_S
            if old or before is None or waiting != (before.waiting, before.waiting_batch):
                self._told[name] = now
                found.append((name, now))
        return found
