"""`python -m bench.lab.passthrough --port N --upstream M`: bytes in, bytes out, in plain Python on uvloop.

What the language and its loop cost by themselves: each connection of a client has one to the upstream, and nothing is
looked at. It knows no key, no price and no request.
"""

import argparse
import asyncio
import sys

import uvloop


class Upstream(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport, waiting: list[bytes]) -> None:
        self._client, self._waiting = client, waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.writelines(self._waiting)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._client.close()


class Client(asyncio.Protocol):
    port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._upstream: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._task = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        made, _ = await loop.create_connection(lambda: Upstream(self._transport, self._waiting), "127.0.0.1", self.port)
        self._upstream = made

    def data_received(self, data: bytes) -> None:
        if self._upstream is None:
            self._waiting.append(data)
        else:
            self._upstream.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


async def serve(port: int, upstream: int) -> None:
    """Until standard input ends."""
    Client.port = upstream
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
