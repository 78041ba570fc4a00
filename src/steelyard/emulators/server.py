"""A small HTTP/1.1 server on loopback for emulators: reads a request, writes an answer piece by piece, can be rude.

Owns framing, what is in flight, and moods: how many requests fail on purpose, and how. `POST /_mood` changes them while
it runs. Knows no vendor. Never to be reached by anybody but this machine: it checks no customer's key.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from steelyard.kernel import limits

JSON = "application/json"
_PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Heard:
    """One request. Header names are in lower case; a body that is no JSON object is empty."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    number: int  # of the requests this server has heard, counted from 1


class Rude:
    """Instead of a piece: what no well-behaved server does."""


CUT = Rude()  # ends the connection amid the answer
HELD = Rude()  # says nothing more until the other side hangs up

Piece = bytes | Rude


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer in one piece. `before`: bytes that come ahead of the body, as part of it."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    before: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer of server-sent events; pieces are sent one by one."""

    pieces: Iterable[Piece]
    headers: Mapping[str, str] = field(default_factory=dict)


class Emulator(Protocol):
    """A vendor, as far as the wire goes."""

    @property
    def name(self) -> str:
        """The kind of upstream that it plays."""
        ...

    @property
    def base(self) -> str:
        """The path below which its API lies, as its customers are told it."""
        ...

    def answer(self, heard: Heard) -> Whole | Stream:
        """What the vendor would answer."""
        ...

    def failing(self, heard: Heard, fault: str) -> Whole | Stream:
        """What it answers when that goes wrong: a `kernel.faults.Fault`, "cut" or "hang"."""
        ...


class Mood(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it behaves, beside what it is asked: of 1,000 requests so many fail, in turn by one of `faults`; every piece
    of a stream comes `piece_ms` after the one before; above `concurrency` requests at once it is too busy (0: never).
    """

    failing_permille: int = 0
    faults: tuple[str, ...] = ("server", "rate_limited", "cut")
    piece_ms: int = 0
    concurrency: int = 0


class Served:
    """One emulator on a port of its own; `heard` keeps the last requests."""

    def __init__(self, emulator: Emulator, mood: Mood | None = None) -> None:
        self.emulator = emulator
        self.mood = mood or Mood()
        self.heard: list[Heard] = []
        self.port = 0
        self._count = 0
        self.running = 0  # requests in flight
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        """Listen on 127.0.0.1; port 0 is any that is free."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for writer in [*self._connections]:
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        """What an offer's address is, as the vendor's customers would write it."""
        return f"http://127.0.0.1:{self.port}{self.emulator.base}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (heard := await self._read(reader)) is not None:
                self.running += 1
                try:
                    if not await self._answer(heard, reader, writer):
                        return
                finally:
                    self.running -= 1
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # the other side went away, or does not speak HTTP
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> Heard | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        if length > limits.BODY_BYTES_MAX:
            return None
        raw = await reader.readexactly(length)
        self._count += 1
        body: dict[str, Any] = {}
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            body = msgspec.json.decode(raw or b"{}", type=dict[str, Any])
        heard = Heard(method, path.partition("?")[0], headers, body, self._count)
        self.heard = [*self.heard[-limits.EMULATOR_HEARD_MAX + 1 :], heard]
        return heard

    def _said(self, heard: Heard) -> Whole | Stream:
        if heard.path == "/_mood":
            try:
                self.mood = msgspec.convert(heard.body, Mood)
            except msgspec.ValidationError as error:
                return Whole(400, {"error": {"message": str(error)}})
            return Whole(200, msgspec.to_builtins(self.mood))
        mood = self.mood
        if heard.method == "POST":
            if mood.concurrency and self.running > mood.concurrency:
                return self.emulator.failing(heard, "rate_limited")
            if mood.faults and _chance(heard.number) < mood.failing_permille:
                return self.emulator.failing(heard, mood.faults[heard.number % len(mood.faults)])
        return self.emulator.answer(heard)

    async def _answer(self, heard: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False when the connection is not to be used again."""
        said = self._said(heard)
        if isinstance(said, Whole):
            pieces: Iterable[Piece] = (*said.before, msgspec.json.encode(said.body))
            writer.write(_head(said.status, {"content-type": JSON, "transfer-encoding": "chunked", **said.headers}))
        else:
            pieces = said.pieces
            lines = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **said.headers}
            writer.write(_head(200, lines))
        for piece in pieces:
            if piece is CUT:
                await writer.drain()
                return False
            if piece is HELD:
                await reader.read()  # until the other side hangs up
                return False
            if isinstance(piece, bytes):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                if self.mood.piece_ms:
                    await asyncio.sleep(self.mood.piece_ms / 1000)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return heard.headers.get("connection", "").lower() != "close"


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}\r\n{lines}\r\n".encode("latin-1")


def _chance(number: int) -> int:
    """0 to 999, the same for the same request: which ones fail can be told beforehand."""
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=4).digest(), "big") % _PERMILLE
