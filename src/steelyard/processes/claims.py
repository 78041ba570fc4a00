"""Idempotency keys at the books: one request runs for a key, repeats wait for it and then get its answer.

Lives in the books' loop; what runs is in memory and in the database, what ended only there. A claim is durable before
its request runs, and a key whose request was charged never becomes free again. Knows no HTTP.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError, WriterLost, bad_request, overloaded, unavailable
from steelyard.kernel.ids import text_from_id
from steelyard.ledger import answers
from steelyard.ledger.answers import Found, Share, State
from steelyard.ledger.wire import Claim, Kept
from steelyard.processes.office import transaction
from steelyard.processes.posting_loop import Thread

log = structlog.get_logger()
T = TypeVar("T")


class Report(msgspec.Struct, frozen=True):
    """What a worker says of its claim: "keep" with the answer, "drop" (nothing was sold) or "over" (look it up)."""

    claim: Claim
    kept: Kept | None = None


class _Running:
    """A claim whose request has not ended."""

    __slots__ = ("claim", "ended")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.ended = asyncio.Event()


class Claims:
    """One per books process."""

    def __init__(
        self,
        engine: Engine,
        thread: Thread,
        clock: Clock,
        *,
        seated: Callable[[str], bool],
        awaited: Callable[[str], bool],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        """Of a series, `seated` says whether its worker is connected and `awaited` whether it may come back or has yet
        to be settled; `settled` posts what has just finished."""
        self._engine = engine
        self._thread = thread
        self._clock = clock
        self._seated = seated
        self._awaited = awaited
        self._settled = settled
        self._running: dict[tuple[int, str], _Running] = {}
        self._shares: dict[int, Share] = {}
        self._waiting: set[bytes] = set()  # requests that wait for another one's end
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False

    async def start(self, live: Collection[str]) -> None:
        """Take up what an earlier run left. Series that are not `live` are settled: theirs is decided now."""
        for claim in await self._transact(answers.running):
            self._running[claim.place] = _Running(claim)
        self._shares = await self._transact(answers.shares)
        await self._resolve_all(lambda series: series not in live)
        self._start(self._keep_sweeping())

    async def close(self) -> None:
        """Nobody waits for a key any longer; what still ends is written."""
        self._ending = True
        for one in self._running.values():
            one.ended.set()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def command(self, op: str, payload: dict[str, Any]) -> object:
        """The operations of a worker: claim.take, claim.keep, claim.drop, claim.over."""
        try:
            if op == "claim.take":
                return await self._take(msgspec.convert(payload, Claim))
            report = msgspec.convert(payload, Report)
        except msgspec.ValidationError as error:
            raise bad_request(f"This is no claim: {error}.") from None
        claim = report.claim
        match op:
            case "claim.keep" if report.kept is not None:
                await self._keep(claim, report.kept)
            case "claim.drop":
                await self._end(claim, answers.drop, claim)
            case "claim.over":
                await self._settled()
                if not await self._transact(answers.is_posted, claim):  # its worker asks again, or dies and is settled
                    raise unavailable("not_settled", "What the request was charged is still on its way to the disk.")
                await self._resolve(claim)
            case _:
                raise CallerError(404, "unknown_command", f"There is no command {op!r}.")
        return None

    def series_settled(self, series: str) -> None:
        """A worker is dead and its journal is posted: decide what became of its claims."""
        self._start(self._resolve_all(lambda ended: ended == series))

    # --- taking a key -------------------------------------------------------------------------------------------

    async def _take(self, claim: Claim) -> dict[str, object]:
        await self._wait_for_turn(claim)
        if not self._seated(claim.series):  # whoever asked is gone
            raise unavailable("books_unavailable", "The worker is not known to the books.")
        if self._shares.get(claim.tenant_id, Share()).keys >= limits.ANSWERS_PER_TENANT_MAX:
            raise overloaded("Too many idempotency keys of the last 24 hours are remembered for this tenant.")
        mine = self._running[claim.place] = _Running(claim)  # no await since the place was seen free
        try:
            found = await self._transact(answers.take, claim, self._clock.now_ns())
        except BaseException:
            self._free(mine)
            raise
        if found is not None:
            self._free(mine)
            return _replay(claim, found)
        self._count(claim.tenant_id, 1, 0)
        return {"verdict": "run"}

    async def _wait_for_turn(self, claim: Claim) -> None:
        """Return when nothing runs under the key. Raises 409 when that takes too long, 422 for another body, and 503
        when the books end."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + limits.IDEMPOTENT_WAIT_S
        while (one := self._running.get(claim.place)) is not None:
            if self._ending:
                raise unavailable("books_unavailable", "The books are about to end. Try again soon.")
            if one.claim.body_hash != claim.body_hash:
                raise _reused(one.claim.request_id)
            if len(self._waiting) >= limits.IDEMPOTENT_WAITERS_MAX:
                raise _still_running(one.claim.request_id)
            self._waiting.add(claim.request_id)
            try:
                async with asyncio.timeout_at(deadline_s):
                    await one.ended.wait()
            except TimeoutError:
                raise _still_running(one.claim.request_id) from None
            finally:
                waited_for = claim.request_id in self._waiting
                self._waiting.discard(claim.request_id)
            if not waited_for:
                raise unavailable("withdrawn", "The request was withdrawn while it waited.")

    def _count(self, tenant_id: int, keys: int, size_bytes: int) -> None:
        share = self._shares.get(tenant_id, Share())
        self._shares[tenant_id] = Share(share.keys + keys, share.size_bytes + size_bytes)

    # --- the end of a request -----------------------------------------------------------------------------------

    async def _keep(self, claim: Claim, kept: Kept) -> None:
        size = len(kept.body or b"")
        if await self._end(claim, answers.keep, claim, kept, self._clock.now_ns()) and size <= limits.ANSWER_BYTES_MAX:
            self._count(claim.tenant_id, 0, size)
        excess = self._shares.get(claim.tenant_id, Share()).size_bytes - limits.ANSWERS_BYTES_PER_TENANT_MAX
        if excess > 0:
            await self._transact(answers.make_room, claim.tenant_id, excess)
            self._shares[claim.tenant_id] = await self._transact(answers.share_of, claim.tenant_id)

    async def _resolve(self, claim: Claim) -> None:
        await self._end(claim, answers.resolve, claim, self._clock.now_ns())

    async def _resolve_all(self, over: Callable[[str], bool]) -> None:
        for one in list(self._running.values()):
            if over(one.claim.series):
                await self._resolve(one.claim)

    async def _end(self, claim: Claim, act: Callable[..., bool], *arguments: Any) -> bool:
        """Write what became of the claim, then let the repeats go on. Saying it twice changes nothing."""
        self._waiting.discard(claim.request_id)
        changed = await self._transact(act, *arguments)
        one = self._running.get(claim.place)
        if one is not None and one.claim.request_id == claim.request_id:
            self._free(one)
        if changed and act is answers.drop:
            self._count(claim.tenant_id, -1, 0)
        return changed

    def _free(self, one: _Running) -> None:
        if self._running.get(one.claim.place) is one:
            del self._running[one.claim.place]
        one.ended.set()

    # --- housekeeping -------------------------------------------------------------------------------------------

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(limits.ANSWER_SWEEP_S)
            with contextlib.suppress(CallerError):  # the database refuses for now; the next sweep is soon
                await self.sweep()

    async def sweep(self) -> None:
        """Delete what has expired, count the shares anew, decide what a refusing database had left undecided."""
        while await self._transact(answers.sweep, self._clock.now_ns()) == limits.ANSWERS_SWEPT_MAX:
            pass
        self._shares = await self._transact(answers.shares)
        await self._resolve_all(lambda series: not self._seated(series) and not self._awaited(series))

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, work: Awaitable[None]) -> None:
        """What is not decided now is decided by a later sweep."""
        try:
            await work
        except (CallerError, DBAPIError, WriterLost) as error:
            log.warning("claim_not_resolved", reason=str(error))

    async def _transact(self, act: Callable[..., T], *arguments: Any) -> T:
        def work() -> T:
            with transaction(self._engine) as connection:
                return act(connection, *arguments)

        return await self._thread.run(work)


def _replay(claim: Claim, found: Found) -> dict[str, object]:
    """The answer of the first request, or the error that says why there is none."""
    if found.body_hash != claim.body_hash:
        raise _reused(found.request_id)
    first = text_from_id(found.request_id)
    match found.state:
        case State.RUNNING:
            raise _still_running(found.request_id)
        case State.CUT:
            raise CallerError(
                409,
                "idempotent_answer_incomplete",
                f"The first request with this Idempotency-Key ({first}) was charged for a part of its answer and did "
                "not come to its end. See its receipt; ask again with a new key.",
            )
        case State.WHOLE:
            if found.kept is None or found.kept.body is None:
                raise CallerError(
                    409,
                    "idempotent_answer_not_kept",
                    f"The first request with this Idempotency-Key ({first}) was answered and charged, but its answer "
                    "is not kept: it was too large, or gave way to newer ones. See its receipt; ask with a new key.",
                )
            return {"verdict": "replay", "headers": found.kept.headers, "body": found.kept.body}


def _reused(request_id: bytes) -> CallerError:
    return CallerError(
        422,
        "idempotency_key_reused",
        f"This Idempotency-Key was used with another body ({text_from_id(request_id)}). Use a new key for it.",
        param="Idempotency-Key",
    )


def _still_running(request_id: bytes) -> CallerError:
    return CallerError(
        409,
        "idempotent_request_running",
        f"The first request with this Idempotency-Key ({text_from_id(request_id)}) still runs. Try again in a moment.",
        retry_after_s=limits.IDEMPOTENT_RETRY_AFTER_S,
    )
