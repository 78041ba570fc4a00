"""Where a host is: its addresses, asked for outside the hot path and anew in the background.

Owns how old an answer may be, and that a name server which fails takes nothing away. Never blocks the loop: names are
looked up in a thread. Opens no connection.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from steelyard.kernel import limits

Place = tuple[int, tuple[str, int]]
"""Address family, and (address, port); flow and scope of IPv6 addresses, which no name server tells, are left out."""
Resolve = Callable[[str, int], Awaitable[list[Place]]]


async def resolve(host: str, port: int) -> list[Place]:
    """The places of a host in the system's order of preference. Raises OSError or UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, (str(at[0]), int(at[1]))) for family, _, _, _, at in found))


class Addresses:
    """The addresses of one host."""

    def __init__(self, host: str, port: int, resolve: Resolve) -> None:
        self._host = host
        self._port = port
        self._resolve = resolve
        self._places: list[Place] = []
        self._asked_s = 0.0
        try:
            ipaddress.ip_address(host)
        except ValueError:
            self._changes = True
        else:
            self._changes = False

    def is_due(self, now_s: float) -> bool:
        """Whether what is known is old."""
        return self._changes and now_s - self._asked_s > limits.UPSTREAM_DNS_S

    async def places(self, now_s: float) -> list[Place]:
        """Those known, the last that answered first; asked for when they are old. Raises OSError or UnicodeError."""
        if not self._places:
            self._asked_s = now_s
            self._places = (await self._resolve(self._host, self._port))[: limits.UPSTREAM_PLACES_MAX]
        elif self.is_due(now_s):
            await self.refresh(now_s)
        return list(self._places)

    async def refresh(self, now_s: float) -> None:
        """Ask anew; without an answer the old one stands."""
        self._asked_s = now_s
        try:
            found = await self._resolve(self._host, self._port)
        except (OSError, UnicodeError):
            return
        if found:
            first = self._places[:1]
            self._places = sorted(found, key=lambda place: place not in first)[: limits.UPSTREAM_PLACES_MAX]

    def prefer(self, place: Place) -> None:
        """Try this one first from now on: it accepted a connection."""
        if self._places[:1] != [place] and place in self._places:
            self._places.remove(place)
            self._places.insert(0, place)

    def has(self, address: str) -> bool:
        """Whether an address is one of the host's, as far as is known."""
        return not self._places or any(place[1][0] == address for place in self._places)
