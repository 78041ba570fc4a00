"""The desks of the books beside the teller's: idempotency keys, stored responses, customers' files and jobs. One place
to start them."""

import asyncio
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import Engine

from steelyard.jobs.content import Content
from steelyard.kernel.clock import Clock
from steelyard.processes.claims import Claims
from steelyard.processes.job_desk import JobDesk
from steelyard.processes.posting_loop import PostingLoop, Thread
from steelyard.processes.shelf import Shelf

_CLAIMS, _RESPONSES, _JOBS = "claim.", "response.", ("file.", "job.")
OPS = (_CLAIMS, _RESPONSES, *_JOBS)
"""What the operations of these desks begin with."""


class Kept(NamedTuple):
    """What customers leave with us: where files lie, and for how many days responses are stored."""

    content: Content
    store_days: int


class Desks:
    """One per books process. `seated` are the series of the workers that are connected."""

    def __init__(
        self,
        engine: Engine,
        thread: Thread,
        clock: Clock,
        kept: Kept,
        seated: Collection[str],
        posting: PostingLoop,
    ) -> None:
        self._claims = Claims(
            engine,
            thread,
            clock,
            seated=seated.__contains__,
            awaited=posting.absent.__contains__,
            settled=posting.free_up,
        )
        self._shelf = Shelf(engine, thread, clock, kept.store_days)
        self._jobs = JobDesk(engine, thread, clock, kept.content, seated.__contains__)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, live: Collection[str]) -> None:
        await self._claims.start(live)
        await self._shelf.start()
        await self._jobs.start(live)

    async def close(self) -> None:
        await self._claims.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._jobs.close()

    async def finish(self) -> None:
        """What sessions have brought is written."""
        await self._shelf.close()

    def series_settled(self, series: str) -> None:
        """A worker is dead and its journal is posted."""
        self._claims.series_settled(series)
        task = asyncio.ensure_future(self._jobs.series_settled(series))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def command(self, op: str, payload: dict[str, Any]) -> object:
        if op.startswith(_RESPONSES):
            return await self._shelf.command(op, payload)
        desk = self._claims if op.startswith(_CLAIMS) else self._jobs
        return await desk.command(op, payload)
