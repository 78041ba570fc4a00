"""The pool against a real socket whose other end does exactly what the test says."""

import asyncio

import pytest
from tests.fakes.engine import HEAD, Exchange, ScriptedServer, chunk, scripted

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.http1 import Request, header_block
from steelyard.upstream.pool import Pool


def ask(server: ScriptedServer, body: bytes = b"{}") -> Request:
    return Request("u", "127.0.0.1", server.port, "POST", "/x", header_block({"a": "b"}), body)


async def whole(pool: Pool, request: Request) -> bytes:
    async with await pool.request(request) as response:
        return await response.body(1 << 20)


async def test_a_body_with_a_length_and_its_connection_is_used_again() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"got " + exchange.body, 200, b"X-Thing: 7")

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server, b"one"))
        assert response.status == 200
        assert response.headers[b"x-thing"] == b"7"
        assert await response.body(100) == b"got one"
        assert await response.read() == b""
        response.close()
        assert await whole(pool, ask(server, b"two")) == b"got two"
        assert server.connections == 1
        assert server.exchanges[0].head == (
            b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 3\r\na: b\r\n\r\n" % server.port
        )
        await pool.close()


async def test_chunks_split_anywhere_come_out_whole() -> None:
    body = HEAD + chunk(b"hello ") + chunk(b"world") + b"0\r\n\r\n"

    async def script(exchange: Exchange) -> None:
        for place in range(len(body)):
            await exchange.send(body[place : place + 1])
            await asyncio.sleep(0)

    pool = Pool()
    async with scripted(script) as server:
        assert await whole(pool, ask(server)) == b"hello world"
        assert await whole(pool, ask(server)) == b"hello world"
        assert server.connections == 1
        await pool.close()


async def test_a_body_without_framing_ends_with_the_connection() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        exchange.writer.close()

    pool = Pool()
    async with scripted(script) as server:
        assert await whole(pool, ask(server)) == b"all of it"
        assert await whole(pool, ask(server)) == b"all of it"
        assert server.connections == 2
        await pool.close()


async def test_interim_answers_are_not_the_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await exchange.answer(b"real", 201)

    pool = Pool()
    async with scripted(script) as server, await pool.request(ask(server)) as response:
        assert (response.status, b"link" in response.headers) == (201, False)
        assert await response.body(10) == b"real"
        await pool.close()


@pytest.mark.parametrize("sent", [HEAD + chunk(b"half"), b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"])
async def test_an_answer_cut_short_is_an_error_and_not_tried_again(sent: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        exchange.writer.close()

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server))
        with pytest.raises(UpstreamError, match="middle of its answer") as caught:
            while await response.read():
                pass
        assert not caught.value.retryable
        response.close()
        assert len(server.exchanges) == 1
        await pool.close()


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"SSH-2.0-x\r\n\r\n", "not HTTP"), (b"HTTP/1.1 200 OK\r\nx: " + b"y" * (limits.HEADER_BYTES_MAX + 9), "headers")],
)
async def test_nonsense_and_endless_headers_are_errors(sent: bytes, said: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(sent)
        await exchange.gone()

    pool = Pool()
    async with scripted(script) as server:
        with pytest.raises(UpstreamError, match=said):
            await pool.request(ask(server))
        await pool.close()


async def test_a_stale_connection_is_replaced_once() -> None:
    """The second request on connection 0 finds it closed before a byte came; connection 1 answers."""

    async def script(exchange: Exchange) -> None:
        if exchange.connection == 0 and len(server.exchanges) == 2:
            exchange.cut()
        else:
            await exchange.answer(b"ok")

    pool = Pool()
    async with scripted(script) as server:
        assert await whole(pool, ask(server)) == b"ok"
        assert await whole(pool, ask(server)) == b"ok"
        assert [one.connection for one in server.exchanges] == [0, 0, 1]
        await pool.close()


async def test_a_fresh_connection_that_closes_at_once_is_not_tried_again() -> None:
    async def script(exchange: Exchange) -> None:
        exchange.cut()

    pool = Pool()
    async with scripted(script) as server:
        with pytest.raises(UpstreamError) as caught:
            await pool.request(ask(server))
        assert caught.value.retryable
        assert len(server.exchanges) == 1
        await pool.close()


async def test_a_reused_connection_that_answered_something_is_not_tried_again() -> None:
    async def script(exchange: Exchange) -> None:
        if len(server.exchanges) == 2:
            await exchange.send(b"HTTP/1.1 2")
            exchange.cut()
        else:
            await exchange.answer(b"ok")

    pool = Pool()
    async with scripted(script) as server:
        await whole(pool, ask(server))
        with pytest.raises(UpstreamError, match="middle"):
            await pool.request(ask(server))
        assert len(server.exchanges) == 2
        await pool.close()


async def test_closing_early_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(b"first"))
        await exchange.gone()
        gone.set()

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server))
        assert await response.read() == b"first"
        response.close()
        await asyncio.wait_for(gone.wait(), 5)
        await pool.close()


async def test_a_cancelled_request_closes_its_connection() -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        came.set()
        await exchange.gone()
        gone.set()

    pool = Pool()
    async with scripted(script) as server:
        task = asyncio.ensure_future(pool.request(ask(server)))
        await asyncio.wait_for(came.wait(), 5)
        task.cancel()
        await asyncio.wait_for(gone.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await task
        await pool.close()


async def test_waiting_requests_are_served_in_turn_and_a_cancelled_one_passes_its_turn() -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await go.wait()
        await exchange.answer(exchange.body)

    pool = Pool(connections_max=1)
    async with scripted(script) as server:
        tasks = [asyncio.ensure_future(whole(pool, ask(server, b"%d" % number))) for number in range(5)]
        while not server.exchanges:
            await asyncio.sleep(0)
        tasks[1].cancel()
        go.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert [answers[0], *answers[2:]] == [b"0", b"2", b"3", b"4"]
        assert [one.body for one in server.exchanges] == [b"0", b"2", b"3", b"4"]
        assert server.connections == 1
        await pool.close()


async def test_a_slow_consumer_holds_the_upstream_up() -> None:
    """64 MiB offered, nobody reads: what was taken stays near the bound."""
    piece = chunk(b"z" * 65536)
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.transport.set_write_buffer_limits(high=0)
        await exchange.send(HEAD)
        for _ in range(1024):
            await exchange.send(piece)
            sent += 65536
        await exchange.send(b"0\r\n\r\n")

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server))
        before = -1
        while sent != before:  # until nothing moves
            before = sent
            await asyncio.sleep(0.1)
        assert sent < 32 * 1024 * 1024
        taken = 0
        while read := await response.read():
            assert len(read) < limits.UPSTREAM_READ_BYTES + 1024 * 1024
            taken += len(read)
        assert taken == 64 * 1024 * 1024
        await pool.close()


async def test_silence_and_a_head_that_does_not_come_are_errors() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.body == b"head":
            await exchange.gone()
        await exchange.send(HEAD + chunk(b"first"))
        await exchange.gone()

    pool = Pool(first_byte_s=0.05, silence_s=0.05, idle_s=0.02)
    async with scripted(script) as server:
        with pytest.raises(UpstreamError, match="said nothing") as caught:
            await pool.request(ask(server, b"head"))
        assert caught.value.retryable
        response = await pool.request(ask(server))
        assert await response.read() == b"first"
        with pytest.raises(UpstreamError, match="said nothing"):
            await response.read()
        response.close()
        await pool.close()


async def test_an_idle_connection_is_closed_before_the_upstream_does_it() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"ok")

    pool = Pool(idle_s=0.02)
    async with scripted(script) as server:
        await whole(pool, ask(server))
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.sleep(0.005)
        await pool.close()


async def test_nobody_listens() -> None:
    pool = Pool()
    with pytest.raises(UpstreamError, match="cannot be reached") as caught:
        await pool.request(Request("u", "127.0.0.1", 1, "GET", "/"))
    assert caught.value.retryable
    await pool.close()


def test_a_header_cannot_smuggle_a_line() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        header_block({"a": "b\r\nx: y"})


async def test_who_is_cancelled_after_its_turn_came_passes_the_connection_on() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(exchange.body)

    pool = Pool(connections_max=1)
    async with scripted(script) as server:
        response = await pool.request(ask(server, b"first"))
        second, third = (asyncio.ensure_future(whole(pool, ask(server, body))) for body in (b"second", b"third"))
        await asyncio.sleep(0)  # both wait now
        assert await response.body(100) == b"first"
        assert await response.read() == b""  # gives the connection to the second
        second.cancel()
        assert await asyncio.wait_for(third, 5) == b"third"
        assert second.cancelled()
        assert server.connections == 1
        await pool.close()


async def test_an_answer_that_is_over_may_end_when_nobody_waits() -> None:
    """Vendors frame their last event and the end of the answer apart: a new connection for each request otherwise."""
    ends = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(b"all there is"))
        await ends.wait()
        await exchange.send(b"0\r\n\r\n")

    pool = Pool()
    async with scripted(script) as server:
        for _ in range(3):
            ends.clear()
            response = await pool.request(ask(server))
            assert await response.read() == b"all there is"
            response.release()
            response.close()
            ends.set()
            (host,) = pool._hosts.values()
            async with asyncio.timeout(10):
                while not host.idle:
                    await asyncio.sleep(0)
        assert server.connections == 1
        await pool.close()


async def test_an_answer_that_is_over_and_does_not_end_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_END_S", 0)
    monkeypatch.setattr(limits, "UPSTREAM_SWEEP_S", 0.01)

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(b"all there is"))
        await exchange.gone()

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server))
        assert await response.read() == b"all there is"
        response.release()
        async with asyncio.timeout(10):
            while server.open:
                await asyncio.sleep(0.001)
        (host,) = pool._hosts.values()
        assert host.open == 0
        await pool.close()
