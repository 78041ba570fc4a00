"""uvicorn, set up so that a byte counted as sent has left user space.

Owns the one thing stock uvicorn does not tell: when its write buffer is empty and whether the connection still stands.
Without it up to 64 KiB of an answer would be billed and die with the process. Hangs up on clients that have fallen
silent: each would keep a connection, a hold and a model's time for good.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.gateway.wire import LEFT
from steelyard.kernel import limits
from steelyard.kernel.errors import ClientGone

_TICKS_PER_S = 10  # of uvicorn's main loop


class ExactProtocol(HttpToolsProtocol):
    """uvicorn's protocol with no write buffer of its own; leaves `LEFT` in every scope."""

    _heard = True  # something came since the last sweep
    _owes = True  # no request has come whole yet, or the next one has begun

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._owes = True
        self.scope[LEFT] = self._left  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._owes = False

    def sweep(self) -> None:
        """Called at intervals: hang up if the rest of a request has not moved since the last time."""
        if self._owes and not self._heard:
            self.transport.abort()
        self._heard = False

    async def _left(self) -> None:
        while self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(limits.CLIENT_SILENCE_S):
                    await self.flow.drain()
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= unsent:
                    self.transport.abort()
                    raise ClientGone("the client takes nothing any more") from None
        if self.transport.is_closing():
            raise ClientGone("the connection is closed")


def public_socket(host: str, port: int) -> socket.socket:
    """A listening socket that several workers may share (SO_REUSEPORT). Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.set_inheritable(False)
    except OSError:
        listener.close()
        raise
    return listener


class PublicServer(uvicorn.Server):
    """Calls `on_ready` once it accepts connections, and `on_drain` when it takes no more."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self.on_drain: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.on_drain()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % max(1, int(limits.CLIENT_SILENCE_S * _TICKS_PER_S)) == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, ExactProtocol):
                    connection.sweep()
        return await super().on_tick(counter)


def public_server(app: Any, drain_s: int, on_ready: Callable[[], None]) -> PublicServer:
    """A server that logs nothing per request and drains running answers for `drain_s` seconds."""
    config = uvicorn.Config(
        app,
        http=ExactProtocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )
    # Our application catches everything itself; what uvicorn would add is a line for each client that hangs up.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return PublicServer(config, on_ready)
