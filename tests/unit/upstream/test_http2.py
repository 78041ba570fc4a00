"""An upstream that is spoken to over HTTP/2 looks like any other to whoever asks it."""

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("h2", reason="needs the extra http2")

from tests.fakes.authority import Authority
from tests.fakes.http2 import Asked, http2_server

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.run import Run
from steelyard.upstream.head import header_block
from steelyard.upstream.http1 import Patience
from steelyard.upstream.pool import Pool, Request
from steelyard.upstream.trust import Trust


@pytest.fixture(autouse=True)
def over_http2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_UPSTREAM_HTTP2_U", "1")


def ask(port: int, body: bytes = b"{}", *, tls: bool = False) -> Request:
    return Request("u", "127.0.0.1", port, "POST", "/v1/x", header_block({"authorization": "Bearer k"}), body, tls)


async def whole(pool: Pool, request: Request) -> bytes:
    async with await pool.request(request) as response:
        return await response.body(1 << 24)


async def echo(asked: Asked) -> None:
    asked.begin(201, (b"content-type", b"text/plain"), (b"retry-after", b"7"))
    await asked.send(b"got ")
    await asked.send(asked.body, end=True)


async def test_requests_share_a_connection_and_go_on_without_a_task() -> None:
    pool = Pool()
    loop = asyncio.get_running_loop()
    async with http2_server(echo) as server:
        response = await pool.request(ask(server.port, b"one"))
        assert (response.status, response.header(b"content-type")) == (201, b"text/plain")
        assert (response.header(b"retry-after"), response.header(b"x")) == (b"7", b"")
        assert await response.body(100) == b"got one"
        runs = [Run(whole(pool, ask(server.port, b"%d" % number)), loop, lambda run: None) for number in range(5)]
        for run in runs:
            run.start()
        async with asyncio.timeout(10):
            while not all(run.over for run in runs):
                await asyncio.sleep(0.001)
        assert [run.result for run in runs] == [b"got %d" % number for number in range(5)]
        assert server.connections == 1
        headers = server.asked[0].headers
        assert headers[b"authorization"] == b"Bearer k" and headers[b"content-length"] == b"3"
        assert (headers[b":path"], headers[b":authority"]) == (b"/v1/x", b"127.0.0.1:%d" % server.port)
        assert not {b"accept-encoding", b"user-agent"} & set(headers)
        await pool.close()


async def test_closing_early_resets_the_stream_and_no_other() -> None:
    async def script(asked: Asked) -> None:
        if asked.body == b"long":
            asked.begin()
            await asked.send(b"first")
            await asked.reset.wait()
        else:
            await echo(asked)

    pool = Pool()
    async with http2_server(script) as server:
        response = await pool.request(ask(server.port, b"long"))
        assert await response.read() == b"first"
        response.close()
        await asyncio.wait_for(server.asked[0].reset.wait(), 10)
        assert await whole(pool, ask(server.port, b"two")) == b"got two"
        assert server.connections == 1
        await pool.close()


async def test_an_answer_cut_short_and_one_that_does_not_come_are_errors() -> None:
    async def script(asked: Asked) -> None:
        if asked.body == b"cut":
            asked.begin()
            await asked.send(b"first")
            asked.peer.transport.close()
        elif asked.body == b"silent":
            await asked.reset.wait()
        else:
            await echo(asked)

    pool = Pool(patience=Patience(first_byte_s=0.05, idle_s=0.04))
    async with http2_server(script) as server:
        response = await pool.request(ask(server.port, b"cut"))
        with pytest.raises(UpstreamError, match="middle of its answer") as caught:
            while await response.read():
                pass
        assert not caught.value.retryable
        assert await whole(pool, ask(server.port, b"two")) == b"got two"
        with pytest.raises(UpstreamError, match="said nothing") as caught:
            await pool.request(ask(server.port, b"silent"))
        assert caught.value.retryable
        assert [one.body for one in server.asked].count(b"silent") == 1, "it has it: it is not asked twice"
        await pool.close()


@pytest.mark.parametrize(("code", "asked"), [(2, [b"one", b"two"]), (7, [b"one", b"two", b"two"])])
async def test_a_stream_that_is_reset_is_asked_for_again_only_where_it_was_refused(
    code: int, asked: list[bytes]
) -> None:
    """RFC 9113 section 8.7: nothing was done for a REFUSED_STREAM; whatever else ends one, something may have been."""

    async def script(heard: Asked) -> None:
        if heard.body == b"two" and len(server.asked) == 2:
            heard.peer.speaks.reset_stream(heard.stream, error_code=code)
            heard.peer.flush()
        else:
            await echo(heard)

    pool = Pool()
    async with http2_server(script) as server:
        assert await whole(pool, ask(server.port, b"one")) == b"got one"
        if code == 7:
            assert await whole(pool, ask(server.port, b"two")) == b"got two"
        else:
            with pytest.raises(UpstreamError, match="HTTP/2 error 2"):
                await pool.request(ask(server.port, b"two"))
        assert [one.body for one in server.asked] == asked
        await pool.close()


async def test_with_tls_the_certificate_is_checked(tmp_path: Path) -> None:
    if not Authority.is_possible():
        pytest.skip("needs the openssl command line")
    authority = Authority(tmp_path)
    async with http2_server(echo, authority.server()) as server:
        pool = Pool(Trust.of(authority.ca_file))
        assert await whole(pool, ask(server.port, b"one", tls=True)) == b"got one"
        await pool.close()
        pool = Pool(Trust.of())
        with pytest.raises(UpstreamError, match="not trusted"):
            await pool.request(ask(server.port, b"two", tls=True))
        await pool.close()
        assert len(server.asked) == 1


async def test_a_long_answer_waits_for_its_reader_and_holds_up_no_other() -> None:
    async def script(asked: Asked) -> None:
        if asked.body == b"long":
            asked.begin()
            await asked.send(bytes(4 * 1024 * 1024), end=True)
        else:
            await echo(asked)

    pool = Pool()
    async with http2_server(script) as server:
        response = await pool.request(ask(server.port, b"long"))
        async with asyncio.timeout(20):
            while server.asked[0].sent_bytes < limits.UPSTREAM_READ_BYTES:
                await asyncio.sleep(0.001)
            for _ in range(5):
                assert await whole(pool, ask(server.port, b"two")) == b"got two"
            assert server.asked[0].sent_bytes == limits.UPSTREAM_READ_BYTES
            assert await response.body(1 << 24) == bytes(4 * 1024 * 1024)
        assert server.connections == 1
        await pool.close()


async def test_a_long_request_arrives_as_the_upstream_takes_it() -> None:
    pool = Pool()
    async with http2_server(echo) as server:
        body = bytes(range(256)) * 4096
        assert await asyncio.wait_for(whole(pool, ask(server.port, body)), 20) == b"got " + body
        await pool.close()


@pytest.mark.parametrize(("refused", "reset"), [(True, True), (False, True), (True, False)])
async def test_a_long_request_that_is_refused_half_way_ends_no_other(refused: bool, reset: bool) -> None:
    """Room for more of it and its end come in one read: what would go out then has nowhere to go. One that is answered
    before it was sent whole is still open for the upstream, unless we end it."""

    async def script(asked: Asked) -> None:
        asked.begin()
        await asked.send(b"first")
        await asked.reset.wait()

    pool = Pool()
    async with http2_server(script) as server, asyncio.timeout(10):
        other = await pool.request(ask(server.port, b"other"))
        assert await other.read() == b"first"
        peer = server.peers[0]
        peer.speaks.acknowledge_received_data = lambda *_: None  # type: ignore[method-assign]
        asking = asyncio.ensure_future(pool.request(ask(server.port, bytes(1 << 20))))
        while len(peer.asked) < 2 or len((long := max(peer.asked.items())[1]).body) < 60_000:
            await asyncio.sleep(0.001)
        if reset:
            peer.speaks.increment_flow_control_window(30_000)
            peer.speaks.increment_flow_control_window(30_000, long.stream)
        if refused:
            peer.speaks.send_headers(long.stream, [(b":status", b"413")], end_stream=True)
        if reset:
            peer.speaks.reset_stream(long.stream, error_code=0 if refused else 2)
        peer.flush()
        if refused:
            response = await asking
            assert (response.status, await response.body(100)) == (413, b"")
            if not reset:
                await long.reset.wait()
        else:
            with pytest.raises(UpstreamError, match="ended the answer early"):
                await asking
        await server.asked[0].send(b"more")
        assert await other.read() == b"more"
        assert server.connections == 1
        await pool.close()


async def test_who_finds_no_room_waits_for_it() -> None:
    go = asyncio.Event()

    async def script(asked: Asked) -> None:
        await go.wait()
        await echo(asked)

    pool = Pool(connections_max=1)
    async with http2_server(script) as server:
        server.streams_max = 2
        tasks = [asyncio.ensure_future(whole(pool, ask(server.port, b"%d" % number))) for number in range(5)]
        async with asyncio.timeout(10):
            while len(server.asked) < 2:
                await asyncio.sleep(0.001)
            go.set()
            assert await asyncio.gather(*tasks) == [b"got %d" % number for number in range(5)]
        assert server.connections == 1
        await pool.close()


async def test_an_upstream_that_leaves_is_asked_on_another_connection() -> None:
    """Its word ends what runs; who waited for room goes on, as does who comes later."""

    async def script(asked: Asked) -> None:
        if asked.body == b"first":
            asked.begin()
            await asked.send(b"some")
        else:
            await echo(asked)

    pool = Pool(connections_max=1, patience=Patience(idle_s=60))
    async with http2_server(script) as server:
        server.streams_max = 1
        first = await pool.request(ask(server.port, b"first"))
        waiting = asyncio.ensure_future(whole(pool, ask(server.port, b"second")))
        async with asyncio.timeout(10):
            assert await first.read() == b"some"
            server.peers[0].speaks.close_connection()
            server.peers[0].flush()
            with pytest.raises(UpstreamError, match="middle of its answer"):
                await first.read()
            assert await waiting == b"got second"
            assert await whole(pool, ask(server.port, b"third")) == b"got third"
        assert server.connections == 2
        await pool.close()


@pytest.mark.parametrize("begun", [False, True])
async def test_who_is_ended_with_the_last_word_of_a_connection_is_told(begun: bool) -> None:
    """Both come in one read: the end of one exchange, and that of them all."""

    async def script(asked: Asked) -> None:
        if begun:
            asked.begin()
            await asked.send(b"some")
            await asyncio.sleep(0.01)
        asked.peer.speaks.reset_stream(asked.stream, error_code=2)
        asked.peer.speaks.close_connection()
        asked.peer.flush()

    pool = Pool(connections_max=1)
    async with http2_server(script) as server:
        with pytest.raises(UpstreamError, match="ended the answer early"):
            await asyncio.wait_for(whole(pool, ask(server.port)), 5)
        await pool.close()


async def test_one_that_speaks_http1_only_is_told_apart(tmp_path: Path) -> None:
    if not Authority.is_possible():
        pytest.skip("needs the openssl command line")
    authority = Authority(tmp_path)
    context = authority.server()
    context.set_alpn_protocols(["http/1.1"])
    async with http2_server(echo, context) as server:
        pool = Pool(Trust.of(authority.ca_file))
        with pytest.raises(UpstreamError, match="unset STEELYARD_UPSTREAM_HTTP2_U"):
            await pool.request(ask(server.port, tls=True))
        await pool.close()


async def test_nobody_listens_and_a_closed_pool() -> None:
    pool = Pool()
    with pytest.raises(UpstreamError, match="cannot be reached") as caught:
        await pool.request(ask(1))
    assert caught.value.retryable
    await pool.close()
    with pytest.raises(UpstreamError, match="no longer asked"):
        await pool.request(ask(1))


async def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h2.connection", None)
    pool = Pool()
    with pytest.raises(UpstreamError, match=rf"{sys.executable} -m pip install 'steelyard\[http2\]'"):
        await pool.request(ask(1))
    await pool.close()
