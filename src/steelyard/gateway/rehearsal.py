"""A front rehearses without a network before it serves: whether uvicorn's protocol is as we expect it.

Owns what is expected: hot and ordinary requests of one connection are answered in their order, and who leaves is
noticed. Our protocols build on uvicorn's own, whose inside may change with any version; it is not looked at.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from steelyard.gateway.exchange import Border, Work
from steelyard.gateway.wire import AsgiWire, Heads, Receive, Scope, Send, Wire, answered, body_of

_TURNS_MAX = 50  # of the loop, until all must have been said
_HOT = b"POST /hot HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
_ORDINARY = b"GET /ordinary HTTP/1.1\r\nhost: x\r\n\r\n"
_SCRIPT = (b"1", b"/ordinary", b"2", b"3", b"/ordinary", b"4")


class _Part(Border):
    """A hot URL that repeats the body; to `w` it has nothing to say, until its client is gone."""

    def __init__(self) -> None:
        self.gone = False

    def serve(self, wire: Wire, heads: Heads) -> tuple[Work, Border]:
        return self._repeat(wire), self

    def over(self, error: BaseException | None) -> None:
        return None

    async def _repeat(self, wire: Wire) -> None:
        body = await body_of(wire)
        wire.watch()
        if body == b"w":
            try:
                await asyncio.Event().wait()
            finally:
                self.gone = wire.gone
        await _tell(wire, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._repeat(AsgiWire(scope, receive, send))


async def _tell(wire: Wire, body: bytes) -> None:
    wire.start(200, b"content-length: %d\r\n" % len(body))
    wire.unwatch()
    await answered(wire, body)


class _Nowhere(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def complaint(front: Callable[[dict[str, Any]], Callable[..., Any]]) -> str:
    """What went wrong when this front rehearsed, in a few words; empty when nothing did. Takes milliseconds.

    `front` makes uvicorn's protocol factory out of hot URLs.
    """
    part = _Part()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hot":
            await part(scope, receive, send)
        else:
            await _tell(AsgiWire(scope, receive, send), scope["path"].encode())

    try:
        return await _rehearsed(front({"/hot": part}), app, part)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


async def _rehearsed(front: Callable[..., Any], app: Any, part: _Part) -> str:
    config = uvicorn.Config(app, http=front, ws="none", lifespan="off", access_log=False, log_config=None)  # type: ignore[arg-type]
    config.load()
    state = ServerState()
    transport = _Nowhere()
    protocol = front(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
    protocol.connection_made(transport)
    hot, ordinary = [_HOT + said for said in _SCRIPT if len(said) == 1], _ORDINARY
    protocol.data_received(hot[0])
    for read in (ordinary + hot[1] + hot[2][:20], hot[2][20:] + ordinary, hot[3]):
        protocol.data_received(read)
    said: list[bytes] = []
    for _ in range(_TURNS_MAX):
        await asyncio.sleep(0)
        said = [each.partition(b"\r\n\r\n")[2] for each in transport.written.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        if len(said) == len(_SCRIPT):
            break
    if said != [*_SCRIPT] or transport.closed:
        return f"requests of one connection were answered with {said}"
    protocol.data_received(_HOT + b"w")
    await asyncio.sleep(0)
    transport.closed = True
    protocol.connection_lost(None)
    for _ in range(_TURNS_MAX):
        await asyncio.sleep(0)
    return "" if part.gone and not state.connections else "a client that left was not noticed"
