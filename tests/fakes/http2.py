"""An upstream that speaks HTTP/2 only, and does what the test says with each request."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings


@dataclass(slots=True)
class Asked:
    """One request, and the means to answer it."""

    headers: dict[bytes, bytes]
    stream: int
    peer: "Peer"
    body: bytes = b""
    sent_bytes: int = 0
    reset: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, status: int = 200, *lines: tuple[bytes, bytes]) -> None:
        self.peer.speaks.send_headers(self.stream, [(b":status", b"%d" % status), *lines])
        self.peer.flush()

    async def send(self, piece: bytes, *, end: bool = False) -> None:
        """As fast as the other side lets it; `sent_bytes` tells how far it is."""
        while piece or end:
            window = self.peer.speaks.local_flow_control_window(self.stream)
            size = min(len(piece), window, self.peer.speaks.max_outbound_frame_size)
            if size or not piece:
                self.peer.speaks.send_data(self.stream, piece[:size], end_stream=end and size == len(piece))
                self.peer.flush()
                self.sent_bytes += size
                end = end and size < len(piece)
                piece = piece[size:]
            else:
                await asyncio.sleep(0.001)


Script = Callable[[Asked], Awaitable[None]]


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: "Http2Server") -> None:
        self.server = server
        self.speaks = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.asked: dict[int, Asked] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.server.connections += 1
        self.server.peers.append(self)
        if self.server.streams_max:
            bound = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.server.streams_max}
            self.speaks.local_settings = h2.settings.Settings(client=False, initial_values=bound)
        self.speaks.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.speaks.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked[event.stream_id] = Asked(dict(event.headers), event.stream_id, self)
            elif isinstance(event, h2.events.DataReceived):
                self.asked[event.stream_id].body += event.data
                self.speaks.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                asked = self.asked[event.stream_id]
                self.server.asked.append(asked)
                self.server.tasks.append(asyncio.ensure_future(self.server.script(asked)))
            elif isinstance(event, h2.events.StreamReset):
                self.asked[event.stream_id].reset.set()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.speaks.data_to_send())


@dataclass(slots=True)
class Http2Server:
    script: Script
    port: int = 0
    connections: int = 0
    streams_max: int = 0  # at the same time, on one connection
    peers: list[Peer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    tasks: list["asyncio.Future[None]"] = field(default_factory=list)


@asynccontextmanager
async def http2_server(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Http2Server]:
    fake = Http2Server(script)
    server = await asyncio.get_running_loop().create_server(lambda: Peer(fake), "127.0.0.1", 0, ssl=context)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for task in fake.tasks:
            task.cancel()
        for peer in fake.peers:
            peer.transport.abort()
        await asyncio.gather(*fake.tasks, return_exceptions=True)
        await asyncio.sleep(0)
