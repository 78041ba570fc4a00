"""A scripted HTTP server that speaks llama.cpp's dialect, byte by byte as the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from steelyard.kernel.offers import Offer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(slots=True)
class Exchange:
    """One request the server got, and the means to answer it."""

    connection: int  # which connection, counted from 0
    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        """Each piece leaves by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, body: bytes, status: int = 200, *headers: bytes) -> None:
        lines = b"".join(header + b"\r\n" for header in headers)
        await self.send(b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, lines, len(body), body))

    async def gone(self) -> None:
        """Return when the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass

    def cut(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class ScriptedServer:
    """Runs `script` for each request. `exchanges` keeps what came; `connections` counts."""

    script: Script
    port: int = 0
    connections: int = 0
    open: int = 0
    exchanges: list[Exchange] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self.open += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                exchange = Exchange(number, head, await reader.readexactly(length), reader, writer)
                self.exchanges.append(exchange)
                await self.script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedServer]:
    fake = ScriptedServer(script)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for exchange in fake.exchanges:
            exchange.writer.transport.abort()
        while fake.open:
            await asyncio.sleep(0)


def offer_at(port: int) -> Offer:
    return Offer(1, "m", "local", f"127.0.0.1:{port}", "m-upstream", 2048, 2048)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sse(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def told(
    text: str | None,
    output: int,
    prompt: int = 5,
    cached: int = 0,
    finish: str | None = None,
    logprobs: Sequence[Any] = (),
) -> bytes:
    """A chunk of the engine with its running counts."""
    choice: dict[str, Any] = {"finish_reason": finish, "index": 0, "delta": {} if text is None else {"content": text}}
    if logprobs:
        choice["logprobs"] = {"content": list(logprobs)}
    counts = {"cache_n": cached, "prompt_n": prompt, "predicted_n": output, "prompt_ms": 1.5}
    return sse({"choices": [choice], "object": "chat.completion.chunk", "timings": counts})


ROLE = sse({"choices": [{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}]})
DONE = b"data: [DONE]\n\n"


def finished(output: int, prompt: int = 5, cached: int = 0, finish: str = "stop") -> bytes:
    """The last three events: finish, closing counts (the prompt with its cached tokens), [DONE]."""
    end = sse({"choices": [{"finish_reason": finish, "index": 0, "delta": {}}]})
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt + cached, "completion_tokens": output, "prompt_tokens_details": details}
    return end + sse({"choices": [], "usage": usage}) + DONE
