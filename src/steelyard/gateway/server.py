"""The public port: uvicorn as we run it, with one of two fronts.

The fast front serves hot URLs from the connection (`fast.py`), the other one everything over ASGI (`exact.py`). Hangs
up on clients that have fallen silent, and drains what runs before it stops.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
import uvicorn

from steelyard.gateway.exact import ExactProtocol
from steelyard.gateway.exchange import Hot
from steelyard.gateway.fast import FastFront, FastProtocol
from steelyard.gateway.rehearsal import complaint
from steelyard.kernel import limits
from steelyard.kernel.errors import StartError

log = structlog.get_logger()
FRONTS: Mapping[str, Callable[[Mapping[str, Hot]], Any]] = {"fast": FastFront, "asgi": lambda hot: ExactProtocol}
"""What makes uvicorn's protocols, by their names, best first."""
AUTO = "auto"
_TICKS_PER_S = 10  # of uvicorn's main loop


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

    def __init__(
        self, config: uvicorn.Config, fronts: Mapping[str, Callable[[], Any]], on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._fronts = fronts
        self._on_ready = on_ready
        self.on_drain: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            self.config.http_protocol_class = await self._front()
        except StartError:
            for listener in sockets or []:
                listener.close()
            raise
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def _front(self) -> Any:
        """The best front that may be had and has rehearsed well. Raises StartError without any."""
        reason = ""
        for name, made in self._fronts.items():
            reason = await complaint(FRONTS[name])
            if not reason:
                return made()
            log.warning("front_given_up", front=name, uvicorn=uvicorn.__version__, reason=reason)
        raise StartError(f"uvicorn {uvicorn.__version__} is not as expected ({reason}). Install the locked version.")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.on_drain()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, FastProtocol):
                connection.cut()  # uvicorn knows its own tasks only

    async def on_tick(self, counter: int) -> bool:
        every = max(1, int(min(limits.CLIENT_SWEEP_S, limits.CLIENT_SILENCE_S, limits.KEEP_ALIVE_S) * _TICKS_PER_S))
        if counter % every == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, ExactProtocol):
                    connection.sweep(every / _TICKS_PER_S)
        return await super().on_tick(counter)


def public_server(
    app: Any, hot: Mapping[str, Hot], drain_s: int, on_ready: Callable[[], None], front: str = "auto"
) -> PublicServer:
    """A server that logs nothing per request and drains running answers for `drain_s` seconds.

    `front`: one of FRONTS, or AUTO for the best that uvicorn in this version allows.
    """
    names = [*FRONTS] if front == AUTO else [front]
    config = uvicorn.Config(
        app,
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
    return PublicServer(config, {name: partial(FRONTS[name], hot) for name in names}, on_ready)
