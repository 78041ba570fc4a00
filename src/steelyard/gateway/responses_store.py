"""Stored responses from a worker's side: brought to the books, asked for, gone on from.

A response is on its way before the last byte of its answer leaves, so whoever has that byte finds it, at every worker.
Bringing goes on, again and again, until the books have written it; an answer never fails for it, and only its last byte
ever waits. Never logs what is in one.
"""

import asyncio
from typing import Any

import msgspec
import structlog

from steelyard.gateway.once import Desk
from steelyard.gateway.responses_items import Item
from steelyard.gateway.responses_kept import Shown, items_in, not_found, response_of
from steelyard.gateway.responses_request import Earlier, Understood
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.records import Caller
from steelyard.kernel.stored import StoredResponse

log = structlog.get_logger()


class Bringing:
    """A response on its way to the books."""

    def __init__(self, response: StoredResponse) -> None:
        self.response = response
        self.sent = asyncio.Event()


class Store:
    """One per worker. `is_open` is False where the house stores nothing."""

    def __init__(self, desk: Desk, *, is_open: bool = True) -> None:
        self.is_open = is_open
        self._desk = desk
        self._at_once = asyncio.Semaphore(limits.RESPONSES_BROUGHT_AT_ONCE_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_its_way_bytes = 0

    @property
    def on_its_way(self) -> int:
        """Responses that the books have not written yet."""
        return len(self._tasks)

    # --- bringing -----------------------------------------------------------------------------------------------

    def bring(self, response: StoredResponse) -> Bringing | None:
        """Send it to the books until they have written it; None when too much is on its way already."""
        size_bytes = response.size_bytes
        if self._on_its_way_bytes + size_bytes > limits.RESPONSES_UNKEPT_BYTES_MAX:
            log.error("response_not_stored", request=text_from_id(response.id), reason="too many wait for the books")
            return None
        self._on_its_way_bytes += size_bytes
        bringing = Bringing(response)
        task = asyncio.ensure_future(self._bring(bringing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return bringing

    async def taken(self, bringing: Bringing) -> None:
        """Return when the books have it in memory, or when they take too long."""
        response = bringing.response
        try:
            async with asyncio.timeout(limits.RESPONSE_TAKEN_WAIT_S):
                await bringing.sent.wait()
                await self._ask("taken", response.project_id, [response.id])
        except (TimeoutError, CallerError):
            log.warning("response_stored_late", request=text_from_id(response.id))

    async def _bring(self, bringing: Bringing) -> None:
        try:
            await self._until_written(bringing)
        finally:
            self._on_its_way_bytes -= bringing.response.size_bytes

    async def _until_written(self, bringing: Bringing) -> None:
        payload = msgspec.structs.asdict(bringing.response)
        attempt = 0
        while True:
            try:
                async with self._at_once:
                    bringing.sent.set()  # whoever waits for it goes on after the next line has sent it
                    await self._desk.command("response.put", payload)
                return
            except CallerError as error:
                if error.status not in {429, 503}:
                    request = text_from_id(bringing.response.id)
                    log.error("response_not_stored", request=request, reason=error.message)
                    return
            delay_ms = limits.RECONNECT_DELAYS_MS[min(attempt, len(limits.RECONNECT_DELAYS_MS) - 1)]
            attempt += 1
            await asyncio.sleep(delay_ms / 1000)

    # --- asking -------------------------------------------------------------------------------------------------

    async def earlier(self, caller: Caller, understood: Understood) -> Earlier:
        """What a request goes on from and refers to. Raises CallerError 400, 404 when that is not there."""
        previous, references = understood.request.previous_response_id, understood.references
        if previous is None and not references:
            return Earlier()
        chain = [] if previous is None else await self.chain(caller, response_of(previous))
        if previous is not None and not chain:
            raise CallerError(
                400,
                "previous_response_not_found",
                f"The response {previous!r}, or one that it goes on from, is not stored (any more). Send the earlier "
                "items as 'input'.",
                param="previous_response_id",
            )
        items = tuple(msgspec.convert(item, Item) for item in items_in(chain))
        return Earlier(items, await self._known(caller, references))

    async def _known(self, caller: Caller, references: list[str]) -> dict[str, Shown]:
        ids = {one for one in map(response_of, references) if one is not None}
        if len(ids) > limits.RESPONSE_REFERENCES_MAX:
            raise bad_request(
                "'input' refers to items of too many stored responses. Send the items themselves.", "input"
            )
        if not ids:
            return {}
        found = await self._ask("find", caller.project_id, sorted(ids))
        known = {item["id"]: item for item in items_in(msgspec.convert(found, list[StoredResponse]))}
        return {one: known[one] for one in references if one in known}

    async def chain(self, caller: Caller, response_id: bytes | None) -> list[StoredResponse]:
        """A response and all it goes on from, oldest first; empty when one of them is not there."""
        if response_id is None:
            return []
        found = await self._ask("find", caller.project_id, [response_id], chained=True)
        return msgspec.convert(found, list[StoredResponse])

    async def find(self, caller: Caller, said: str) -> StoredResponse:
        """Raises CallerError 404."""
        response_id = response_of(said)
        found = [] if response_id is None else await self._ask("find", caller.project_id, [response_id])
        if not found:
            raise not_found(response_id, said)
        return msgspec.convert(found[0], StoredResponse)

    async def drop(self, caller: Caller, said: str) -> None:
        """Delete it. Raises CallerError 404."""
        response_id = response_of(said)
        if response_id is None or not await self._ask("drop", caller.project_id, [response_id]):
            raise not_found(response_id, said)

    async def _ask(self, op: str, project_id: int, ids: list[bytes], **more: Any) -> Any:
        return await self._desk.command(f"response.{op}", {"project_id": project_id, "ids": ids, **more})
