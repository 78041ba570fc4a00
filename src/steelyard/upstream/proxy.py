"""The proxy an upstream is reached through: named in the environment, since it may hold a password.

Owns the tunnel (CONNECT, RFC 9110 section 9.3.6), in which the upstream's own TLS begins: the proxy reads nothing but
whom it connects to. Knows no upstream's dialect.
"""

import asyncio
import base64
import os
import re
import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError


class Proxy(NamedTuple):
    """Where it listens, and the line that names us to it; empty: it asks for nobody's name."""

    host: str
    port: int
    authorization: bytes = b""


def variable_of(word: str, upstream: str) -> str:
    """The environment variable for something of an upstream: PROXY, `my-vllm` → `STEELYARD_UPSTREAM_PROXY_MY_VLLM`."""
    return f"STEELYARD_UPSTREAM_{word}_" + re.sub(r"[^A-Z0-9]", "_", upstream.upper())


def proxy_of(upstream: str) -> Proxy | None:
    """The proxy of an upstream, None where it has none. Raises UpstreamError for a value that cannot be used."""
    variable = variable_of("PROXY", upstream)
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    try:
        at = urlsplit(value)
        port = at.port or 3128
    except ValueError:
        at, port = urlsplit(""), 0
    if at.scheme != "http" or not at.hostname or at.path.strip("/") or at.query:  # not told: it may hold a password
        message = (
            f"has a proxy that cannot be used: {variable} must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
        )
        raise UpstreamError(upstream, message)
    named = f"{unquote(at.username)}:{unquote(at.password or '')}" if at.username else ""
    line = b"proxy-authorization: Basic %b\r\n" % base64.b64encode(named.encode()) if named else b""
    return Proxy(at.hostname, port, line)


async def tunnel(line: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy connect `line`, a connection to it, to a host. Raises OSError when it does not."""
    loop = asyncio.get_running_loop()
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    await loop.sock_sendall(
        line, f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n".encode() + proxy.authorization + b"\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # nothing follows: whoever connects speaks first
        read = await loop.sock_recv(line, limits.HEADER_BYTES_MAX)
        answer += read
        if not read or len(answer) > limits.HEADER_BYTES_MAX:
            raise OSError("its proxy closed the connection")
    status = answer.split(b" ", 2)[1:2]
    if status != [b"200"]:
        said = status[0].decode("ascii", "replace") if status else "nonsense"
        hint = " (name and password stand in its variable)" if said == "407" else ""
        raise OSError(f"its proxy answered {said}{hint}")
