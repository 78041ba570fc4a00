"""A server of OpenAI's chat dialect that fails in every way it can, one after the other."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from tests.emulators.openai_server import CUT, DONE, HELD, HELLO, STOP, Body, OpenAIServer, counted, usage

WAYS = ("hang_up", "broken", "busy", "silent", "cut_at_once", "cut_after_hello", "penniless", "nonsense")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def told(status: int, **headers: str) -> bytes:
    said = json.dumps({"error": {"message": "no", "type": "x", "code": str(status)}}).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode()
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, more, len(said), said)


def whole() -> list[bytes]:
    return [HEAD, *(chunk(piece) for piece in (*HELLO, STOP, counted(usage(3)), DONE)), b"0\r\n\r\n"]


class FailingServer(OpenAIServer):
    """Fails in the given ways in turn; answers as it should when there are none. `failed` counts how often each was."""

    def __init__(self, ways: tuple[str, ...] = WAYS) -> None:
        super().__init__()
        self._ways = cycle(ways) if ways else None
        self.failed: Counter[str] = Counter()
        self.served = 0

    def answer(self, head: bytes, body: Body) -> Iterator[bytes]:
        if self._ways is None:
            self.served += 1
            return iter(whole())
        way = next(self._ways)
        self.failed[way] += 1
        return iter(self._said(way))

    def _said(self, way: str) -> list[bytes]:
        return {
            "hang_up": [CUT],
            "broken": [told(500)],
            "busy": [told(429, retry_after="1")],
            "silent": [HEAD, HELD],
            "cut_at_once": [HEAD, chunk(HELLO[0]), CUT],
            "cut_after_hello": [HEAD, *map(chunk, HELLO), CUT],
            "penniless": [told(402)],
            "nonsense": [HEAD, chunk(b"data: {broken\n\n"), CUT],
        }[way]


async def ask(port: int, head: bytes, bodies: list[bytes], seen: list[tuple[int, bytes, Any]]) -> None:
    """One customer on one connection: asks one after the other and keeps (status, body, request id) of each answer."""
    for body in bodies:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head % len(body) + body)
            whole = await reader.read(-1)
        finally:
            writer.close()
        top, _, rest = whole.partition(b"\r\n\r\n")
        request_id = top.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        seen.append((int(top.split(b" ", 2)[1]), rest, request_id))
