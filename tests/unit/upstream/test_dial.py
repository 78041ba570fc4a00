"""Addresses, proxies and names: how a connection comes about, against real sockets and a name server of the test's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.fakes.engine import Exchange, scripted

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.addresses import Addresses, Place
from steelyard.upstream.http1 import Patience
from steelyard.upstream.pool import Pool, Request
from steelyard.upstream.proxy import Proxy, proxy_of, variable_of


async def ok(exchange: Exchange) -> None:
    await exchange.answer(b"ok")


class Names:
    """A name server: tells `addresses`, or fails while there are none. Counts what it is asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[Place]:
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, (address, port)) for address in self.addresses]


def ask(port: int, host: str = "models.example") -> Request:
    return Request("u", host, port, "POST", "/x", b"", b"{}")


async def whole(pool: Pool, request: Request) -> bytes:
    async with await pool.request(request) as response:
        return await response.body(100)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_addresses_are_tried_in_turn_and_the_one_that_answered_first_afterwards() -> None:
    names = Names("127.0.0.2", "127.0.0.1")  # the server listens on one of them only
    pool = Pool(resolve=names)
    async with scripted(ok) as server:
        assert await whole(pool, ask(server.port)) == b"ok"
        (host,) = pool._hosts.values()
        assert [at[0] for _, at in await host.dial.addresses.places(0)] == ["127.0.0.1", "127.0.0.2"]
        assert names.asked == 1
        await pool.close()


async def test_a_name_nobody_knows_is_told_and_asked_for_again_with_the_next_request() -> None:
    names = Names()
    pool = Pool(resolve=names)
    async with scripted(ok) as server:
        with pytest.raises(UpstreamError, match="cannot be reached: Temporary failure") as caught:
            await pool.request(ask(server.port))
        assert caught.value.retryable
        names.addresses = ("127.0.0.1",)
        assert await whole(pool, ask(server.port)) == b"ok"
        await pool.close()


async def test_connections_to_an_address_that_is_gone_are_closed_and_a_failing_name_server_closes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_DNS_S", 0.02)
    monkeypatch.setattr(limits, "UPSTREAM_SWEEP_S", 0.02)
    names = Names("127.0.0.1")
    pool = Pool(resolve=names, patience=Patience(idle_s=60))
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.connection == 1:
            await go.wait()
        await ok(exchange)

    async with scripted(script) as server:
        first = await pool.request(ask(server.port))
        busy = asyncio.ensure_future(pool.request(ask(server.port)))
        await until(lambda: len(server.exchanges) == 2)
        assert await first.body(10) == b"ok"
        names.addresses = ()
        before = names.asked
        await until(lambda: names.asked > before + 2)
        assert server.open == 2, "what is known stands while nobody answers"
        names.addresses = ("127.0.0.9",)
        await until(lambda: server.open == 1)
        go.set()
        response = await busy  # what runs, runs to its end
        assert await response.body(10) == b"ok"
        await until(lambda: server.open == 0)
        await pool.close()


async def test_an_address_needs_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_DNS_S", -1)
    names = Names("127.0.0.1")
    assert Addresses("models.example", 1, names).is_due(0)
    assert not Addresses("127.0.0.1", 1, names).is_due(0)
    assert not Addresses("::1", 1, names).is_due(0)


@asynccontextmanager
async def proxy(
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy that answers CONNECT with `answer` and passes bytes on when it said 200."""
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while read := await reader.read(65536):
            writer.write(read)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            writer.write(answer)
            if answer.split()[1:2] == [b"200"]:
                host, _, port = head.split()[1].decode().rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
                await asyncio.gather(pump(reader, back), pump(there, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


async def test_a_proxy_makes_the_connection_and_is_told_who_asks() -> None:
    async with scripted(ok) as server, proxy() as (port, heads):
        pool = Pool(proxy_of=lambda name: Proxy("127.0.0.1", port, b"proxy-authorization: Basic dTpw\r\n"))
        for _ in range(2):
            assert await whole(pool, ask(server.port, "127.0.0.1")) == b"ok"
        place = b"127.0.0.1:%d" % server.port
        assert heads == [b"CONNECT %b HTTP/1.1\r\nhost: %b\r\nproxy-authorization: Basic dTpw\r\n\r\n" % (place, place)]
        assert b"proxy" not in server.exchanges[0].head
        await pool.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "its proxy answered 407 .name and password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "its proxy answered 403"),
        (b"HTTP/1.1 200", "its proxy closed the connection"),
    ],
)
async def test_a_proxy_that_does_not_connect(answer: bytes, said: str) -> None:
    async with proxy(answer) as (port, _):
        pool = Pool(proxy_of=lambda name: Proxy("127.0.0.1", port))
        with pytest.raises(UpstreamError, match=said):
            await pool.request(ask(1, "127.0.0.1"))
        await pool.close()


def test_a_proxy_is_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variable_of("PROXY", "my-vllm") == "STEELYARD_UPSTREAM_PROXY_MY_VLLM"
    monkeypatch.delenv(variable_of("PROXY", "u"), raising=False)
    assert proxy_of("u") is None
    for value, found in (
        ("http://proxy.example", Proxy("proxy.example", 3128)),
        ("http://[::1]:8080/", Proxy("::1", 8080)),
        ("http://me:p%40ss@10.0.0.1:80", Proxy("10.0.0.1", 80, b"proxy-authorization: Basic bWU6cEBzcw==\r\n")),
    ):
        monkeypatch.setenv(variable_of("PROXY", "u"), value)
        assert proxy_of("u") == found
    for value in (
        "https://x:y-secret@proxy.example",
        "http://",
        "proxy.example:8080",
        "http://a:y-secret@b:99999",
        "http://a/b",
    ):
        monkeypatch.setenv(variable_of("PROXY", "u"), value)
        with pytest.raises(UpstreamError, match="must be http://HOST:PORT") as caught:
            proxy_of("u")
        assert "y-secret" not in caught.value.message
