"""The HTTP listener of an engine of ours: llama.cpp's dialect on loopback, for the holder of the key.

Owns connections and the taking of turns between them and the decoder: a step holds Python's lock, so one thread steps
and listens in turn; whose sequence the decoder gets is the line's affair. A connection that closes takes its sequence
with it before the next step. A customer who reads slowly costs memory bounded by the context. Knows no customer and no
price.
"""

import asyncio
import hmac
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import httptools
import msgspec

from steelyard.engines.asked import Ask, Refused, read_ask
from steelyard.engines.decoder import Broken, Decoder, Sequence
from steelyard.engines.line import Line, wish_of
from steelyard.engines.said import ALIVE, chunk, closing, failed, refusal, rests
from steelyard.kernel import limits
from steelyard.kernel.engines import EngineLoad
from steelyard.scheduling.wish import TURN_HEADER, Capacity, QueueFull, Turn, turn_from

_WORDS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    413: b"Too Large",
    429: b"Full",
    503: b"Busy",
}
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
_BUSY, _FULL = "The engine's line is full. Try again in a moment.", "rate_limit_error"
_STATUSES = {"unavailable_error": 503, _FULL: 429}
_encode = msgspec.json.encode


class _Turns(msgspec.Struct):
    messages: list[Any] = []


class Told(NamedTuple):
    """What the engine says of itself."""

    model: str
    context: int
    slots: int
    cache_tokens: int = 0  # of all sequences together; 0: as many as they like


class Effort(Protocol):
    """Who keeps account of what the decoder's work takes."""

    def rested(self) -> None:
        """Nothing has run until now."""

    def ran(self, sequences: int, *, ended: bool) -> None:
        """A step of so many sequences is done; `ended`: one of them has its end, and has not been told it yet."""

    def rests(self) -> None:
        """One that has run makes way, and has not been told so yet."""


class Ticket:
    """One sequence of a connection, from its coming to its end."""

    __slots__ = ("_desk", "ask", "connection", "number", "prompt", "sequence", "spoke")

    def __init__(self, desk: "Desk", connection: "Connection", ask: Ask, prompt: list[int]) -> None:
        self._desk = desk
        self.connection = connection
        self.ask = ask
        self.prompt = prompt
        self.number = 0
        self.sequence: Sequence | None = None  # None: it waits
        self.spoke = False

    def begin(self) -> None:
        """See `Waits`."""
        self._desk.begin(self)

    def rest(self) -> None:
        """See `Waits`."""
        self._desk.rest(self)


class Desk:
    """The decoder and who waits for what it says. One per process."""

    def __init__(
        self, decoder: Decoder, told: Told, key: str, broken: Callable[[str], None], effort: Effort | None = None
    ) -> None:
        self.decoder = decoder
        self.told = told
        self._authorization = f"Bearer {key}".encode()
        self._broken = broken
        self._effort = effort
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Sequence, Ticket] = {}
        self._waiting: set[Ticket] = set()  # that have not begun; the status of their answers is open
        self._line = Line(Capacity(told.slots, told.cache_tokens, rests=True))
        self._stepping = False
        self._alive = self._loop.call_later(limits.ENGINE_ALIVE_S, self._say_alive)

    def load(self) -> EngineLoad:
        """What the decoder does, and who waits for it."""
        waiting, batch = self._line.waiting
        return msgspec.structs.replace(self.decoder.load(), waiting=waiting, waiting_batch=batch)

    def knows(self, authorization: bytes) -> bool:
        return hmac.compare_digest(authorization, self._authorization)

    def take(self, connection: "Connection", body: bytes, turn: Turn, *, chat: bool) -> None:
        """Put an ask into the line. Raises Refused."""
        if self._effort is not None and not self._stepping:
            self._effort.rested()
        ask = read_ask(body, chat=chat)
        prompt = self.decoder.prompt_of(ask)
        ticket = Ticket(self, connection, ask, prompt)
        try:
            ticket.number = self._line.come(ticket, wish_of(ask, len(prompt), turn, self.told.context))
        except QueueFull:
            raise Refused(_BUSY, _FULL) from None
        connection.ticket = ticket
        self._waiting.add(ticket)
        self._line.let_in()

    def begin(self, ticket: Ticket) -> None:
        """Its turn has come: the decoder gets it, or refuses it; or goes on with it after a rest."""
        if ticket.sequence is not None:
            ticket.connection.say(rests(False))
            try:
                self.decoder.resume(ticket.sequence)
            except Broken as error:
                self._broken(str(error))
        else:
            self._waiting.discard(ticket)
            try:
                sequence = ticket.sequence = self.decoder.add(ticket.ask, ticket.prompt)
            except Refused as refused:
                ticket.connection.refuse(refused)
                self._line.leave(ticket.number)
                return
            self._listeners[sequence] = ticket
            ticket.connection.begin()
        if not self._stepping:
            self._stepping = True
            self._listen()

    def rest(self, ticket: Ticket) -> None:
        """Somebody is waited for: it makes way, and its connection waits with what it has."""
        ticket.spoke = False
        if ticket.sequence is not None:
            if self._effort is not None:
                self._effort.rests()
            ticket.connection.say(rests(True))
            try:
                self.decoder.rest(ticket.sequence)
            except Broken as error:
                self._broken(str(error))

    def leave(self, ticket: Ticket) -> None:
        """Its connection is gone."""
        self._waiting.discard(ticket)
        if ticket.sequence is not None and self._listeners.pop(ticket.sequence, None) is not None:
            try:
                self.decoder.cancel(ticket.sequence)
            except Broken as error:
                self._broken(str(error))
        self._line.leave(ticket.number)

    def _turn(self) -> None:
        if not self.decoder.active:
            self._stepping = False
            return
        sequences = self.decoder.active
        try:
            told = list(self.decoder.step())
        except Broken as error:
            for one in self._listeners.values():
                one.connection.end(failed("The engine failed while it answered."))
            self._broken(str(error))
            return
        if self._effort is not None:
            ended = any(one.finish is not None or one.failed is not None for one in told)
            self._effort.ran(sequences, ended=ended)
        with self._line.until_told():
            for sequence in told:
                if (ticket := self._listeners.get(sequence)) is not None:
                    self._tell(sequence, ticket)
        self._listen()

    def _listen(self, turns: int = limits.ENGINE_LISTENS) -> None:
        """Let who knocks be accepted, read and answered before the next step: were there one turn of the loop between
        two steps, a question would take three steps, and a supervisor would take a busy engine for a dead one."""
        if turns:
            self._loop.call_soon(self._listen, turns - 1)
        else:
            self._turn()

    def _tell(self, sequence: Sequence, ticket: Ticket) -> None:
        connection = ticket.connection
        if sequence.counts.generated and not ticket.spoke:
            ticket.spoke = True
            self._line.spoke(ticket.number)
        if sequence.failed is not None:
            self._ended(sequence, ticket)
            connection.end(failed(sequence.failed))
            return
        text, tokens = sequence.taken() if sequence.said or sequence.finish is not None else ("", [])
        if not text and sequence.finish is None:
            return  # held back: what has not left is not counted yet
        said = chunk(sequence.counts, text, tokens, sequence.finish, chat=sequence.ask.chat)
        if sequence.finish is None:
            connection.say(said)
            return
        self._ended(sequence, ticket)
        connection.end(said + closing(sequence.counts, sequence.stop if sequence.ask.verbose else None))

    def _ended(self, sequence: Sequence, ticket: Ticket) -> None:
        del self._listeners[sequence]
        self._line.leave(ticket.number, sequence.counts.prompt + sequence.counts.generated)

    def _say_alive(self) -> None:
        for ticket in self._waiting:
            ticket.connection.wait()
        for ticket in self._listeners.values():
            ticket.connection.say(ALIVE)
        self._alive = self._loop.call_later(limits.ENGINE_ALIVE_S, self._say_alive)


class Connection(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self.ticket: Ticket | None = None
        self._target = self._authorization = self._turn = b""
        self._body: list[bytes] = []
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.ticket is not None:
            self._desk.leave(self.ticket)
            self.ticket = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close()

    def eof_received(self) -> bool:
        return False

    # What httptools calls

    def on_message_begin(self) -> None:
        self._target = self._authorization = self._turn = b""
        self._body, self._body_bytes = [], 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._authorization = value
        elif name.lower() == TURN_HEADER:
            self._turn = value

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= limits.ENGINE_BODY_BYTES_MAX:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self.ticket is not None:  # a second request before the first is answered
            self._close()
            return
        try:
            self._serve(self._target.partition(b"?")[0], b"".join(self._body))
        except Refused as refused:
            self.refuse(refused)
        finally:
            self._body = []

    # What is answered

    def _serve(self, path: bytes, body: bytes) -> None:
        if path == b"/health":
            self._answer(200, b'{"status":"ok"}')
        elif not self._desk.knows(self._authorization):
            self._answer(401, refusal(Refused("Invalid API key", "authentication_error"), 401))
        elif self._body_bytes > limits.ENGINE_BODY_BYTES_MAX:
            self._answer(413, refusal(Refused("The request is too long."), 413))
        elif path in {b"/v1/chat/completions", b"/v1/completions"}:
            self._desk.take(self, body, turn_from(self._turn), chat=path.endswith(b"/chat/completions"))
        elif (made := _FACTS.get(path)) is not None:
            self._answer(200, _encode(made(self._desk, body)))
        else:
            self._answer(404, refusal(Refused("File Not Found", "not_found_error"), 404))

    def wait(self) -> None:
        """A sign of life before the answer, which may still be a refusal."""
        self._write(_INTERIM)

    def begin(self) -> None:
        """The head of a stream."""
        self._write(_STREAM)

    def refuse(self, refused: Refused) -> None:
        """An answer that is none; no stream has begun."""
        self.ticket = None
        status = _STATUSES.get(refused.kind, 400)
        self._answer(status, refusal(refused, status))

    def say(self, data: bytes) -> None:
        """A part of the stream."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes) -> None:
        """The last part of the stream."""
        self.ticket = None
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    def _answer(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._write(head % (status, _WORDS[status], len(body)) + body)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _count(desk: Desk, body: bytes) -> dict[str, Any]:
    return {"input_tokens": len(desk.decoder.prompt_of(read_ask(body, chat=True)))}


def _tokenize(desk: Desk, body: bytes) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(f"The request cannot be read: {error}.") from None
    special = bool(asked.get("add_special"))
    return {"tokens": desk.decoder.tokens_of(str(asked.get("content", "")), special=special)}


def _props(desk: Desk, _: bytes) -> dict[str, Any]:
    return {"chat_template_caps": {"supports_tools": False}, "cached_tokens": "counted by Steelyard, not by the engine"}


def _slots(desk: Desk, _: bytes) -> list[dict[str, Any]]:
    return [{"id": number, "is_processing": True} for number in range(desk.decoder.active)]


def _models(desk: Desk, _: bytes) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": desk.told.model, "object": "model"}]}


_FACTS: dict[bytes, Callable[[Desk, bytes], Any]] = {
    b"/v1/chat/completions/input_tokens": _count,
    b"/tokenize": _tokenize,
    b"/props": _props,
    b"/slots": _slots,
    b"/v1/models": _models,
}
