"""The teller's socket: frames and messages between a worker (or the command line) and `books`.

    frame     u32 length (little-endian), then a msgpack array [id, op, payload]
    question  id > 0; answered by [id, "ok", payload] or [id, "error", Refusal]
    notice    id = 0; never answered ("release", "closed", "lease", "returned", "done" to books; "snapshot", "settled",
              "lease", "recall", "errand" to workers)
    settled   requests, each with the tokens that count of it
    snapshot  notices "part" (as many as it takes: what is large of it travels in pieces, so that no worker reads for
              long), then "snapshot" with the rest, which puts them all in force; "keys" when the key table has moved

Owns encoding and write batching (one write for each turn of the loop). Knows no wallet.
"""

import asyncio
from typing import Any, cast

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.frozen import JournalRecord, Record
from steelyard.kernel.offers import Model
from steelyard.kernel.records import Granted, HoldAsk, Use
from steelyard.kernel.routes import Routes
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.shares import Share

NOTICE = 0
OK = "ok"
ERROR = "error"


class Held(JournalRecord, frozen=True):
    """A hold as a worker remembers it."""

    request_id: bytes
    tenant_id: int
    amount_nano: int
    use: Use | None = None


class LeaseAsk(JournalRecord, frozen=True):
    """A worker would like to hold by itself; `worst_nano` is the worst case of such a request, `use` what it takes of
    limits."""

    tenant_id: int
    worst_nano: int
    use: Use | None = None


class Lease(JournalRecord, frozen=True):
    """More of a tenant's money that the worker may hold by itself; 0: none now. With a `share`, only for its key."""

    tenant_id: int
    amount_nano: int
    share: Share | None = None


class Returned(JournalRecord, frozen=True):
    """Money and shares of a lease that go back. With `holds`, all of it: they are what it was given to and still
    hold."""

    tenant_id: int
    amount_nano: int
    holds: tuple[Held, ...] | None = None
    shares: tuple[Share, ...] = ()


class Hello(Record, frozen=True):
    """The first message. `worker` None: not a worker, only commands. `epoch` and `series` when it had them before."""

    worker: int | None
    pid: int
    epoch: int = 0
    series: str = ""
    holds: tuple[Held, ...] = ()


class Welcome(Record, frozen=True):
    """The answer to Hello."""

    epoch: int
    series: str


class Part(Record, frozen=True):
    """A piece of a snapshot's models, prices and costs. Tariffs of one subject may come in several pieces, in order."""

    models: tuple[Model, ...] = ()
    prices: tuple[tuple[str, tuple[Tariff, ...]], ...] = ()
    costs: tuple[tuple[str, tuple[Tariff, ...]], ...] = ()


class Head(Record, frozen=True):
    """What a snapshot says beside its parts, which came before; `keys` is the path of the key table."""

    version: int
    keys: str
    operator_names: dict[bytes, str]
    credentials: dict[str, str]
    rates: dict[str, tuple[Tariff, ...]]
    routes: Routes


class Known(Record, frozen=True):
    """What a worker has now: the version of its snapshot and the path of its key table."""

    version: int
    keys: str


class Refusal(Record, frozen=True):
    """A CallerError on the wire."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


class Errand(Record, frozen=True):
    """A command that only a worker can answer: it asks what that worker knows."""

    ticket: int
    op: str
    payload: dict[str, Any]


class Done(Record, frozen=True):
    """The answer to an errand; `refusal` where there is none."""

    ticket: int
    answer: Any = None
    refusal: Refusal | None = None


class Claim(Record, frozen=True):
    """A request that wants to be the one for its key."""

    project_id: int
    tenant_id: int
    key: str
    body_hash: bytes
    request_id: bytes
    series: str

    @property
    def place(self) -> tuple[int, str]:
        return self.project_id, self.key


class Kept(Record, frozen=True):
    """An answer as it left: headers and body. `body` None: it was not kept."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw]).decode
decode_hold = msgspec.msgpack.Decoder(HoldAsk).decode
decode_granted = msgspec.msgpack.Decoder(Granted).decode
decode_lease_ask = msgspec.msgpack.Decoder(LeaseAsk).decode
decode_lease = msgspec.msgpack.Decoder(Lease).decode
decode_returned = msgspec.msgpack.Decoder(Returned).decode
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
decode_part = msgspec.msgpack.Decoder(Part).decode
decode_head = msgspec.msgpack.Decoder(Head).decode
decode_known = msgspec.msgpack.Decoder(Known).decode
decode_text = msgspec.msgpack.Decoder(str).decode
decode_settled = msgspec.msgpack.Decoder(tuple[tuple[bytes, int], ...]).decode
decode_id = msgspec.msgpack.Decoder(bytes).decode
decode_count = msgspec.msgpack.Decoder(int).decode
decode_refusal = msgspec.msgpack.Decoder(Refusal).decode
decode_errand = msgspec.msgpack.Decoder(Errand).decode
decode_done = msgspec.msgpack.Decoder(Done).decode
decode_object = msgspec.msgpack.Decoder(dict[str, Any]).decode
decode_any = msgspec.msgpack.Decoder().decode


def frame(number: int, op: str, payload: object) -> bytes:
    """One message as it stands on the wire. Raises BooksError when it is beyond the bound."""
    body = _encode((number, op, payload))
    if len(body) > limits.SOCKET_MESSAGE_BYTES_MAX:
        raise BooksError(f"a {op} message of {len(body)} bytes is too large for the socket")
    return len(body).to_bytes(4, "little") + body


def refusal(error: CallerError) -> Refusal:
    return Refusal(error.status, error.code, error.message, error.param, error.retry_after_s)


def error_from(payload: bytes | msgspec.Raw) -> CallerError:
    """The CallerError behind an "error" answer."""
    return error_of(decode_refusal(payload))


def error_of(said: Refusal) -> CallerError:
    return CallerError(said.status, said.code, said.message, param=said.param, retry_after_s=said.retry_after_s)


class Link(asyncio.Protocol):
    """One end of a connection. Subclasses say what to do with a message and when the other end is gone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._goes_on = False  # what was received is heard further in the loop's next turn
        self._unsent: list[bytes] = []
        self.gone = asyncio.Event()
        """Set when the connection is lost."""
        self.alive = False
        """Whether what is sent can still arrive."""

    def on_message(self, number: int, op: str, payload: msgspec.Raw) -> None:
        raise NotImplementedError

    def on_gone(self) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self.alive = True

    def connection_lost(self, exc: Exception | None) -> None:
        while self._goes_on:  # what it had said is heard before it is gone
            self._hear_received()
        self._transport, self.alive = None, False
        self._unsent.clear()
        self.on_gone()
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        received = self._received
        if not received:  # most of the time messages come whole
            at = self._hear(data)
            received += data[at:] if at else data
            return
        received += data
        if not self._goes_on:
            self._hear_received()

    def _go_on(self) -> None:
        if self._goes_on:
            self._hear_received()

    def _hear_received(self) -> None:
        self._goes_on = False
        received = self._received
        length = int.from_bytes(received[:4], "little")
        if len(received) >= 4 + length or length > limits.SOCKET_MESSAGE_BYTES_MAX:
            rest = bytes(received)
            del received[: self._hear(rest)]

    def _hear(self, data: bytes) -> int:
        """Take the whole messages at the beginning; returns how many bytes they were. What is more than a part of a
        turn is left for the next one, so that a large snapshot keeps nobody waiting."""
        at, size = 0, len(data)
        view = memoryview(data)
        try:
            while size - at >= 4:
                if at >= limits.SOCKET_HEARD_AT_ONCE_BYTES:
                    self._goes_on = True
                    self._loop.call_soon(self._go_on)
                    break
                length = int.from_bytes(view[at : at + 4], "little")
                if length > limits.SOCKET_MESSAGE_BYTES_MAX:
                    self.abort()
                    break
                end = at + 4 + length
                if end > size:
                    break
                number, op, payload = _decode_message(view[at + 4 : end])
                at = end
                self.on_message(number, op, payload)
        except msgspec.MsgspecError:  # whoever speaks another language is not heard further
            self.abort()
        return at

    def send(self, number: int, op: str, payload: object) -> None:
        """Send with everything else of this turn of the loop. A dead connection swallows it."""
        self.send_frames(frame(number, op, payload))

    def send_frames(self, frames: bytes) -> None:
        """Messages that were made by `frame` already."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(frames)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        transport = self._transport
        if transport is None or transport.is_closing() or not unsent:
            return
        if transport.get_write_buffer_size() > limits.SOCKET_MESSAGE_BYTES_MAX:  # the other end reads nothing any more
            self.abort()
            return
        transport.write(b"".join(unsent))

    def close(self) -> None:
        """Send what is unsent and close."""
        self._flush()
        self.alive = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self.alive = False
        if self._transport is not None:
            self._transport.abort()
