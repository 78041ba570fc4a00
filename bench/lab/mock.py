"""`python -m bench.lab.mock --port N`: an upstream of OpenAI's chat dialect that costs almost nothing.

Answers a plain ask with one JSON of 589 bytes, a streamed one with 64 pieces of text, a finish, the counts (if asked
for) and [DONE]: in one burst, or evenly spaced when the prompt says "paced 20 ms, 250 pieces". Written for the
measurements alone: no error, no time-out, no bound.
"""

import argparse
import asyncio
import re
import sys
from typing import ClassVar

import uvloop

PACED = "paced {pace_ms} ms, {pieces} pieces"
"""What a prompt says to have its answer spaced; it stands near its beginning."""
PIECES = 64
ANSWER_BYTES = 589

_TICK_MS = 1
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_COUNTED = re.compile(rb'"include_usage"\s*:\s*true')
_PACED = re.compile(rb"paced (\d+) ms, (\d+) pieces")
_NEAR = 4096  # bytes of a body in which a prompt's beginning is looked for
_ID = b'"id":"chatcmpl-7f3a9c0e51d24b68","object":"%b","created":1767225600,"model":"mock"'
_CHUNK = b"data: {" + _ID % b"chat.completion.chunk" + b',"choices":[{"index":0,"delta":{%b},"finish_reason":%b}]}\n\n'
_USAGE = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}'
_COUNTS = b"data: {" + _ID % b"chat.completion.chunk" + b',"choices":[],' + _USAGE + b"}\n\n"
_DONE = b"data: [DONE]\n\n"
_PIECE = _CHUNK % (b'"content":" token"', b"null")
_FIRST = _CHUNK % (b'"role":"assistant","content":" token"', b"null")
_FINISH = _CHUNK % (b"", b'"stop"')
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_MODELS = b'{"object":"list","data":[{"id":"mock","object":"model","created":1767225600,"owned_by":"mock"}]}'
_BODY = b"{" + _ID % b"chat.completion" + b',"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},'
_BODY += b'"finish_reason":"stop"}],' + _USAGE + b"}"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain(prompt_tokens: int) -> bytes:
    counts = prompt_tokens, PIECES, prompt_tokens + PIECES
    text = b"word " * 100
    room = ANSWER_BYTES - len(_BODY % (b"", *counts))
    body = _BODY % (text[:room], *counts)
    return _JSON % (len(body), body)


def _ending(prompt_tokens: int, pieces: int, counted: bool) -> bytes:
    counts = _COUNTS % (prompt_tokens, pieces, prompt_tokens + pieces) if counted else b""
    return _FINISH + counts + _DONE


def _burst(prompt_tokens: int, counted: bool) -> bytes:
    """The whole answer in one write, every event a chunk of its own, as servers send them."""
    events = [_FIRST, *[_PIECE] * (PIECES - 1)]
    events += [event + b"\n\n" for event in _ending(prompt_tokens, PIECES, counted).split(b"\n\n") if event]
    return _SSE + b"".join(_chunked(event) for event in events) + b"0\r\n\r\n"


class Wheel:
    """One timer for all streams: each is due at the same tick of every turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._places: dict[int, list[set[Connection]]] = {}
        self._tick = 0
        self._start = self._loop.time()
        self._loop.call_later(_TICK_MS / 1000, self._turn)

    def add(self, pace_ms: int, connection: "Connection") -> set["Connection"]:
        places = self._places.setdefault(pace_ms, [set() for _ in range(pace_ms)])
        place = places[self._tick % pace_ms]
        place.add(connection)
        return place

    def _turn(self) -> None:
        """Catch up with the clock, tick by tick, so that a late loop does not stretch the pace."""
        due = int((self._loop.time() - self._start) * 1000 / _TICK_MS)
        while self._tick < due:
            self._tick += 1
            for pace_ms, places in self._places.items():
                for connection in tuple(places[self._tick % pace_ms]):
                    connection.tick()
        self._loop.call_later(_TICK_MS / 1000, self._turn)


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    wheel: Wheel
    plains: ClassVar[dict[int, bytes]] = {}
    bursts: ClassVar[dict[tuple[int, bool], bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._write = self._transport.write
        self._got = b""
        self._place: set[Connection] | None = None
        self._left = 0
        self._pieces = 0
        self._tokens = 0

    def connection_lost(self, _: Exception | None) -> None:
        if self._place is not None:
            self._place.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._got:
            data = self._got + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._got = data
            return
        head = data[:end]
        length = _LENGTH.search(head)
        if length is None and b"chunked" in head.lower():
            if not data.endswith(b"0\r\n\r\n"):
                self._got = data
                return
            size = len(data) - end
        else:
            size = int(length[1]) if length else 0
            if len(data) < end + 4 + size:
                self._got = data
                return
        self._got = b""
        if head.startswith(b"POST"):
            self._answer(data[end + 4 :], size)
        else:
            self._write(_JSON % (len(_MODELS), _MODELS))

    def _answer(self, body: bytes, size: int) -> None:
        tokens = max(1, size // 4)
        if _STREAM.search(body) is None:
            plain = self.plains.get(tokens)
            if plain is None:
                plain = self.plains[tokens] = _plain(tokens)
            self._write(plain)
            return
        counted = _COUNTED.search(body) is not None
        paced = _PACED.search(body, 0, _NEAR)
        if paced is not None:
            self._left = self._pieces = int(paced[2])
            self._tokens = tokens
            self._counted = counted
            self._write(_SSE + _chunked(_FIRST))
            self._left -= 1
            self._place = self.wheel.add(int(paced[1]), self)
            return
        burst = self.bursts.get((tokens, counted))
        if burst is None:
            burst = self.bursts[tokens, counted] = _burst(tokens, counted)
        self._write(burst)

    def tick(self) -> None:
        if self._left:
            self._left -= 1
            self._write(_PIECE_CHUNK)
            return
        self._write(_chunked(_ending(self._tokens, self._pieces, self._counted)) + b"0\r\n\r\n")
        if self._place is not None:
            self._place.discard(self)
            self._place = None


_PIECE_CHUNK = _chunked(_PIECE)


async def serve(port: int) -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    Connection.wheel = Wheel()
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
