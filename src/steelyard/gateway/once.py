"""Requests with an Idempotency-Key: claim the key at the books, run once, record the answer, replay it to repeats.

Owns what counts as a whole answer. An answer is kept when it came to its end; the key is free again when nothing was
sold; everything in between the books decide from the usage row. Requests without the header never come here.
"""

import asyncio
import hashlib
import re
from typing import Any, Protocol

import msgspec
import structlog

from steelyard.flow import House, paid_request
from steelyard.gateway.dialect import Dialect
from steelyard.gateway.left import OF_THE_MOMENT
from steelyard.gateway.wire import AsgiWire, Headers, headers_of, lines_of
from steelyard.identity.keys import authenticate
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.records import Caller, Order
from steelyard.kernel.roles import Answer, Ask
from steelyard.kernel.settled import End, Settlement
from steelyard.ledger.wire import Claim, Kept

log = structlog.get_logger()
HEADER = b"idempotency-key"
_KEY = re.compile(r"[\x21-\x7e]+")


class Desk(Protocol):
    """The books' counter, as a worker of `series` reaches it."""

    @property
    def series(self) -> str: ...
    async def command(self, op: str, payload: dict[str, Any]) -> Any: ...


class Exchange(Ask, Answer, Protocol):
    """An exchange whose caller and order may be found out before the flow asks for them."""

    caller: Caller | None


class RecordingWire(AsgiWire):
    """A wire that remembers the request's body, and the answer up to the bound."""

    body_hash = b""
    too_long = False

    def __init__(self, dialect: Dialect, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._dialect = dialect
        self.headers: Headers = []
        self._pieces: list[bytes] = []
        self._size = 0

    async def body(self) -> bytes:
        read = await super().body()
        self.body_hash = hashlib.sha256(self._dialect.name + b"\0" + read).digest()
        return read

    def start(self, status: int, lines: bytes) -> None:
        self.headers = [header for header in headers_of(lines) if not header[0].startswith(OF_THE_MOMENT)]
        super().start(status, lines)

    async def send(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > limits.ANSWER_BYTES_MAX:
            self.too_long = True
            self._pieces[:] = [piece]  # the last one tells a whole stream from a cut one
        else:
            self._pieces.append(piece)
        await super().send(piece)

    @property
    def recorded(self) -> bytes | None:
        """The answer's body; None when it was too long."""
        return None if self.too_long else b"".join(self._pieces)

    @property
    def saw_stream_end(self) -> bool:
        return bool(self._pieces) and self._pieces[-1].endswith(self._dialect.stream_end)

    async def replay(self, headers: Headers, body: bytes) -> None:
        """Send a kept answer."""
        self.start(200, lines_of([*headers, (b"idempotent-replayed", b"true")]))
        for at in range(0, len(body), limits.ANSWER_PIECE_BYTES):
            await AsgiWire.send(self, body[at : at + limits.ANSWER_PIECE_BYTES])


class Ordered:
    """An exchange whose order was read already."""

    def __init__(self, exchange: Exchange, order: Order) -> None:
        self.caller = exchange.caller
        self.authorization = exchange.authorization
        self._order = order

    async def order(self) -> Order:
        return self._order


class Once:
    """One per worker."""

    def __init__(self, house: House, desk: Desk) -> None:
        self._house = house
        self._desk = desk
        self._reports: set[asyncio.Task[None]] = set()

    async def paid_request(self, wire: RecordingWire, exchange: Exchange, key: str) -> None:
        """`flow.paid_request`, at most once for the key. Raises what it raises, and 400, 409, 422 of the key's own."""
        check_key(key)
        exchange.caller = caller = authenticate(self._house.teller.snapshot, exchange.authorization)
        order = came if isinstance(came := exchange.order(), Order) else await came
        claim = Claim(caller.project_id, caller.tenant_id, key, wire.body_hash, order.request_id, self._desk.series)
        kept = await self._claim(claim)
        if kept is not None:
            await wire.replay(list(kept.headers), kept.body or b"")
            return
        settlement: Settlement | None = None
        try:
            settlement = await paid_request(self._house, Ordered(exchange, order), exchange)
        finally:
            if settlement is None:
                self._report("claim.over" if wire.started else "claim.drop", claim)
        if is_whole(settlement, wire):
            report = self._reporting("claim.keep", claim, Kept(tuple(wire.headers), wire.recorded))
        else:
            report = self._reporting("claim.over" if sold(settlement) else "claim.drop", claim)
        await asyncio.wait([report], timeout=limits.ANSWER_REPORT_WAIT_S)

    async def _claim(self, claim: Claim) -> Kept | None:
        """The kept answer, or None when this request is the one to run."""
        decided = False
        try:
            said = await self._desk.command("claim.take", msgspec.to_builtins(claim, builtin_types=(bytes,)))
            decided = True
        except CallerError as error:
            decided = error.status != 503  # then the claim may stand all the same
            raise
        finally:
            if not decided:  # cancelled, too: whatever the books decide meanwhile is undone
                self._report("claim.drop", claim)
        if said["verdict"] == "run":
            return None
        return msgspec.convert(said, Kept)

    def _report(self, op: str, claim: Claim) -> None:
        _ = self._reporting(op, claim)

    def _reporting(self, op: str, claim: Claim, kept: Kept | None = None) -> "asyncio.Task[None]":
        """Tell the books what became of a claim, again and again until they have heard it."""
        if kept is not None and len(self._reports) >= limits.ANSWER_REPORTS_MAX:
            kept = Kept(kept.headers, None)
        payload = {"claim": claim, "kept": kept}
        task = asyncio.ensure_future(self._tell(op, payload))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)
        return task

    async def _tell(self, op: str, payload: dict[str, Any]) -> None:
        attempt = 0
        while True:
            try:
                await self._desk.command(op, payload)
                return
            except CallerError as error:
                if error.status not in {429, 503}:
                    log.error("claim_report_refused", op=op, reason=error.message)
                    return
            delay_ms = limits.RECONNECT_DELAYS_MS[min(attempt, len(limits.RECONNECT_DELAYS_MS) - 1)]
            attempt += 1
            await asyncio.sleep(delay_ms / 1000)


def check_key(key: str) -> None:
    """Raises CallerError 400."""
    if len(key) > limits.IDEMPOTENCY_KEY_CHARACTERS_MAX or not _KEY.fullmatch(key):
        raise bad_request(
            f"An Idempotency-Key has 1 to {limits.IDEMPOTENCY_KEY_CHARACTERS_MAX} visible ASCII characters and no "
            "blanks; a UUID is a good one.",
            "Idempotency-Key",
            "invalid_idempotency_key",
        )


def sold(settlement: Settlement) -> bool:
    """Whether anything was delivered that is charged."""
    return settlement.closed.usage.total > 0


def is_whole(settlement: Settlement, wire: RecordingWire) -> bool:
    """Whole, or a stream whose every token is charged and of which only the end did not get through."""
    return End(settlement.closed.end).whole or (sold(settlement) and wire.saw_stream_end)
