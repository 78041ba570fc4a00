"""TLS to upstreams: who is believed, who is not and why, and what a second connection spares."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.fakes.authority import Authority

from steelyard.kernel.errors import StartError, UpstreamError
from steelyard.upstream.http1 import Request
from steelyard.upstream.pool import Pool
from steelyard.upstream.trust import Trust

RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if not Authority.is_possible():
        pytest.skip("needs the openssl command line")
    return Authority(tmp_path_factory.mktemp("authority"))


class Server:
    """Answers every request with `ok` and closes; keeps what each handshake agreed on."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.heads: list[bytes] = []
        self.protocols: list[str | None] = []
        self.names: list[str | None] = []
        self._context = context
        if context is not None:
            context.sni_callback = lambda _, name, __: self.names.append(name)

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._context is None:  # as a server without TLS does with a greeting of it
                await reader.read(1)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                await writer.drain()
                return
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            tls = writer.get_extra_info("ssl_object")
            self.protocols.append(tls and tls.selected_alpn_protocol())
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()


async def ask(pool: Pool, server: Server, host: str = "127.0.0.1") -> bytes:
    async with await pool.request(Request("u", host, server.port, "GET", "/x", tls=True)) as response:
        return await response.body(10)


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=RUNNERS)
def run(request: pytest.FixtureRequest) -> Run:
    """Under both event loops: the platform's own is not Python's."""
    runner = RUNNERS[request.param]
    return lambda work: runner(asyncio.wait_for(work, 30))


def test_a_private_authority_is_believed_and_a_session_taken_up_again(authority: Authority, run: Run) -> None:
    async def work() -> None:
        async with Server(authority.server("IP:127.0.0.1,DNS:localhost")) as server:
            trust = Trust.of(authority.ca_file)
            for name, reused in (("localhost", False), ("localhost", True), ("127.0.0.1", False)):
                pool = Pool(trust)
                response = await pool.request(Request("u", name, server.port, "GET", "/x", tls=True))
                connection = response._connection
                assert connection is not None and connection._transport is not None
                assert connection._transport.get_extra_info("ssl_object").session_reused is reused
                assert await response.body(10) == b"ok"
                await pool.close()
            assert server.protocols == ["http/1.1"] * 3
            assert server.names == ["localhost", "localhost", None], "an address is not a name"
            assert server.heads[0].startswith(b"GET /x HTTP/1.1\r\nhost: localhost:%d\r\n" % server.port)

    run(work())


def test_who_is_not_believed(authority: Authority, run: Run) -> None:
    async def refusal(context: ssl.SSLContext | None, trust: Trust | None) -> UpstreamError:
        async with Server(context) as server:
            pool = Pool(trust, connect_s=10)
            with pytest.raises(UpstreamError) as caught:
                await ask(pool, server)
            await pool.close()
            assert not server.heads, "not a byte of a request left"
            return caught.value

    async def work() -> None:
        unknown = await refusal(authority.server(), None)
        assert "not trusted" in unknown.message and "'ca_file'" in unknown.message
        assert not unknown.retryable
        other = await refusal(authority.server("DNS:other.example"), Trust.of(authority.ca_file))
        assert "another name" in other.message
        plain = await refusal(None, Trust.of(authority.ca_file))
        assert "cannot be spoken to by TLS" in plain.message

    run(work())


def test_a_ca_file_without_certificates_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        Trust.of(tmp_path / "nowhere.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(StartError, match="holds no certificates"):
        Trust.of(empty)


def test_nothing_switches_verification_off() -> None:
    trust = Trust.of()
    assert trust.check_hostname and trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.minimum_version >= ssl.TLSVersion.TLSv1_2
