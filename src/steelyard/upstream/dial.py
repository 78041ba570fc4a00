"""How a connection to an upstream is opened: to one of its addresses, through a proxy if it has one, with TLS.

Owns the order in which addresses are tried, the tunnel through a proxy, and the words for what goes wrong. Runs in a
task of its own, bounded as a whole; nothing of it is on the hot path. Knows no request.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.addresses import Addresses, Place, Resolve
from steelyard.upstream.proxy import Proxy, tunnel
from steelyard.upstream.trust import Trust, distrust

Spoken = TypeVar("Spoken", bound=asyncio.Protocol)


class Dial:
    """Opens connections to one host. `trusting`: whom to believe, made when the first certificate is seen."""

    def __init__(
        self, upstream: str, host: str, port: int, trusting: Callable[[], Awaitable[Trust]] | None, resolve: Resolve
    ) -> None:
        self.upstream = upstream
        self.tls = trusting is not None
        self._host = host
        self._port = port
        self._trusting = trusting
        self._trust: Trust | None = None
        self._proxy: Proxy | None = None
        self.addresses = Addresses(host, port, resolve)
        self._resolve = resolve

    def through(self, proxy: Proxy) -> None:
        """Let a proxy open the connections; it looks up the name as well."""
        self._proxy = proxy
        self.addresses = Addresses(proxy.host, proxy.port, self._resolve)

    async def open(self, make: Callable[[], Spoken], connect_s: float) -> Spoken:
        """A connection over which the upstream has proved who it is. Raises UpstreamError."""
        try:
            async with asyncio.timeout(connect_s):
                if self._trusting is not None and self._trust is None:
                    self._trust = await self._trusting()
                loop = asyncio.get_running_loop()
                line = await self._line()
                try:
                    if self._proxy is not None:
                        await tunnel(line, self._proxy, self._host, self._port)
                    name = self._host if self.tls else None
                    _, connection = await loop.create_connection(make, sock=line, ssl=self._trust, server_hostname=name)
                except BaseException:
                    line.close()
                    raise
        except TimeoutError:
            message = f"did not accept a connection within {connect_s} s"
            raise UpstreamError(self.upstream, message, retryable=True) from None
        except ssl.SSLError as error:
            raise UpstreamError(self.upstream, distrust(error)) from None
        except (OSError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise UpstreamError(self.upstream, f"cannot be reached: {reason}", retryable=True) from None
        return connection

    def keep(self, session: ssl.SSLSession) -> None:
        """What the next handshake may take up."""
        if self._trust is not None:
            self._trust.sessions[self._host] = session

    async def _line(self) -> socket.socket:
        """A connected socket: the addresses are tried in turn, each but the last for a part of the time."""
        places = await self.addresses.places(asyncio.get_running_loop().time())
        for place in places[:-1]:
            try:
                async with asyncio.timeout(limits.UPSTREAM_NEXT_PLACE_S):
                    line = await _connected(place)
            except OSError:  # a TimeoutError is one
                continue
            self.addresses.prefer(place)
            return line
        line = await _connected(places[-1])
        self.addresses.prefer(places[-1])
        return line


async def _connected(place: Place) -> socket.socket:
    family, address = place
    line = socket.socket(family, socket.SOCK_STREAM)
    try:
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # 40 ms otherwise, where two small writes follow
        await asyncio.get_running_loop().sock_connect(line, address)
    except BaseException:
        line.close()
        raise
    return line
