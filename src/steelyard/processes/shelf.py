"""Stored responses at the books: taken into memory at once, written in groups, found in both.

Lives in the books' loop. What was taken is found from then on, by every worker; whoever brought it is answered when it
is durable, and brings it again when the books end before. A response is only ever shown to its own project. Never logs
what is in one. Knows no HTTP.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import CallerError, WriterLost, bad_request, overloaded, unavailable
from steelyard.kernel.stored import StoredResponse
from steelyard.processes.office import transaction
from steelyard.processes.posting_loop import Thread
from steelyard.storage import responses

log = structlog.get_logger()
T = TypeVar("T")
_DAY_NS = 24 * 3600 * NS_PER_S


class Wanted(msgspec.Struct, frozen=True):
    """Which responses a project asks for. `chained`: with all that each of them goes on from."""

    project_id: int
    ids: tuple[bytes, ...]
    chained: bool = False


class Shelf:
    """One per books process."""

    def __init__(self, engine: Engine, thread: Thread, clock: Clock, store_days: int) -> None:
        self._engine = engine
        self._thread = thread
        self._clock = clock
        self._kept_ns = store_days * _DAY_NS
        self._pending: dict[bytes, tuple[StoredResponse, asyncio.Future[None]]] = {}
        self._pending_bytes = 0
        self._dropped: dict[bytes, None] = {}
        self._shares: dict[int, int] = {}  # tenant → bytes
        self._writer: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._shares = await self._transact(responses.shares)
        self._sweeper = asyncio.ensure_future(self._keep_sweeping())

    async def close(self) -> None:
        """Write what is pending and end."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def command(self, op: str, payload: dict[str, Any]) -> object:
        """The operations of a worker: response.put, response.taken, response.find, response.drop."""
        try:
            if op == "response.put":
                await self._put(msgspec.convert(payload, StoredResponse))
                return None
            wanted = msgspec.convert(payload, Wanted)
        except msgspec.ValidationError as error:
            raise bad_request(f"This is no response: {error}.") from None
        match op:
            case "response.taken":  # asked behind a put on the same line: by its answer the put has been taken
                return None
            case "response.find":
                return await self._find(wanted)
            case "response.drop":
                return await self._drop(wanted)
        raise CallerError(404, "unknown_command", f"There is no command {op!r}.")

    # --- writing ------------------------------------------------------------------------------------------------

    async def _put(self, response: StoredResponse) -> None:
        """Take it; returns when it is durable. Putting it twice changes nothing."""
        if not self._kept_ns or response.id in self._dropped:
            return
        if response.size_bytes > limits.RESPONSE_BYTES_MAX:
            raise bad_request("The response is too large to be stored.")
        known = self._pending.get(response.id)
        if known is None:
            if self._pending_bytes + response.size_bytes > limits.RESPONSES_PENDING_BYTES_MAX:
                raise overloaded("Too many responses wait to be written.")
            known = self._pending[response.id] = response, asyncio.get_running_loop().create_future()
            self._pending_bytes += response.size_bytes
            if self._writer is None or self._writer.done():
                self._writer = asyncio.ensure_future(self._write())
        await asyncio.shield(known[1])

    async def _write(self) -> None:
        """Write what is pending, group by group; while one is written the next one gathers."""
        while self._pending:
            await asyncio.sleep(limits.RESPONSES_GATHERED_MS / 1000)  # who waits for it to be taken is answered first
            group = dict(list(self._pending.items())[: limits.RESPONSES_WRITTEN_MAX])
            failure: CallerError | None = None
            try:
                new = await self._transact(responses.put, [response for response, _ in group.values()])
                await self._make_room(new)
            except (CallerError, WriterLost, DBAPIError) as error:  # those who brought them bring them again
                log.warning("responses_not_written", count=len(group), reason=type(error).__name__)
                failure = error if isinstance(error, CallerError) else _unwritten()
            for response_id, (response, durable) in group.items():
                if self._pending.pop(response_id, None) is not None:
                    self._pending_bytes -= response.size_bytes
                if failure is None:
                    durable.set_result(None)
                else:
                    durable.set_exception(failure)
                    durable.exception()  # nobody may be waiting any more

    async def _make_room(self, new: list[StoredResponse]) -> None:
        for response in new:
            self._count(response.tenant_id, response.size_bytes)
        for tenant_id in {response.tenant_id for response in new}:
            excess_bytes = self._shares[tenant_id] - limits.RESPONSES_BYTES_PER_TENANT_MAX
            if excess_bytes > 0:
                freed_bytes = await self._transact(responses.make_room, tenant_id, excess_bytes)
                self._count(tenant_id, -freed_bytes)
                log.info("responses_gave_way", tenant_id=tenant_id, size_bytes=freed_bytes)

    def _count(self, tenant_id: int, size_bytes: int) -> None:
        self._shares[tenant_id] = self._shares.get(tenant_id, 0) + size_bytes

    async def _drop(self, wanted: Wanted) -> bool:
        """Delete one. False when the project has none."""
        (response,) = await self._find(wanted) or (None,)
        if response is None:
            return False
        pending = self._pending.get(response.id)
        if pending is not None:
            with contextlib.suppress(CallerError):
                await asyncio.shield(pending[1])
        self._dropped[response.id] = None
        while len(self._dropped) > limits.RESPONSES_DROPPED_MAX:
            del self._dropped[next(iter(self._dropped))]
        size_bytes = await self._transact(responses.delete_one, response.id)
        self._count(response.tenant_id, -(size_bytes or 0))
        return True

    # --- reading ------------------------------------------------------------------------------------------------

    async def _find(self, wanted: Wanted) -> list[StoredResponse]:
        """Of those asked for the ones the project has; a chain oldest first, and nothing when one of it is gone."""
        if not self._kept_ns:
            return []
        if not wanted.chained:
            return await self._of_project(wanted.project_id, wanted.ids)
        ids = await self._chain(wanted.ids[0]) if wanted.ids else []
        found = {one.id: one for one in await self._of_project(wanted.project_id, tuple(ids))}
        return [found[one] for one in ids[::-1]] if len(found) == len(ids) else []

    async def _chain(self, response_id: bytes) -> list[bytes]:
        """Ids of a response and those it goes on from, latest first; empty when one is gone. Raises CallerError 400 for
        a chain beyond the bounds."""
        most, since_ns = limits.RESPONSE_CHAIN_MAX + 1, self._clock.now_ns() - self._kept_ns
        ids: list[bytes] = []
        size_bytes = 0
        next_id: bytes | None = response_id
        while next_id is not None:
            if next_id in self._pending:
                one = self._pending[next_id][0]
                links = [(one.id, one.previous_id, one.size_bytes)]
            else:
                links = await self._transact(responses.chain, next_id, since_ns, most)
            if not links:
                return []
            ids += [link[0] for link in links]
            size_bytes += sum(link[2] for link in links)
            if len(ids) > limits.RESPONSE_CHAIN_MAX or size_bytes > limits.RESPONSE_CHAIN_BYTES_MAX:
                raise bad_request(
                    "The conversation behind 'previous_response_id' is too long. Begin a new one from what matters.",
                    "previous_response_id",
                )
            next_id = links[-1][1]
        return ids

    async def _of_project(self, project_id: int, ids: tuple[bytes, ...]) -> list[StoredResponse]:
        since_ns = self._clock.now_ns() - self._kept_ns
        found = [self._pending[one][0] for one in ids if one in self._pending]
        others = [one for one in ids if one not in self._pending]
        if others:
            found += await self._transact(responses.find, others, since_ns)
        return [one for one in found if one.project_id == project_id and one.id not in self._dropped]

    # --- housekeeping -------------------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            with contextlib.suppress(CallerError, WriterLost, DBAPIError):  # the next sweep is soon
                await self.sweep()
            await asyncio.sleep(limits.RESPONSES_SWEEP_S)

    async def sweep(self) -> None:
        """Delete what is older than it may be, and count the shares anew."""
        before_ns = self._clock.now_ns() - self._kept_ns
        while (
            await self._transact(responses.sweep, before_ns, limits.RESPONSES_SWEPT_MAX) == limits.RESPONSES_SWEPT_MAX
        ):
            pass
        self._shares = await self._transact(responses.shares)

    async def _transact(self, act: Callable[..., T], *arguments: Any) -> T:
        def work() -> T:
            with transaction(self._engine) as connection:
                return act(connection, *arguments)

        return await self._thread.run(work)


def _unwritten() -> CallerError:
    return unavailable("books_unavailable", "The books cannot write the response at the moment.")
