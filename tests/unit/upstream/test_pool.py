"""The pool against a real socket whose other end does exactly what the test says."""

import asyncio
import socket
from collections.abc import Callable

import msgspec
import pytest
from tests.fakes.engine import HEAD, Exchange, ScriptedServer, chunk, scripted

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.outbox import Outbox
from steelyard.kernel.run import Run
from steelyard.upstream.dial import Dial
from steelyard.upstream.head import FORM, form_in, header_block, line_of
from steelyard.upstream.http1 import Connection, Patience, Request
from steelyard.upstream.pool import Pool
from steelyard.upstream.wheel import Wheel


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
        assert response.header(b"x-thing") == b"7"
        assert await response.body(100) == b"got one"
        assert await response.read() == b""
        response.close()
        assert await whole(pool, ask(server, b"two")) == b"got two"
        assert server.connections == 1
        assert server.exchanges[0].head == (
            b"POST /x HTTP/1.1\r\nhost: 127.0.0.1:%d\r\na: b\r\ncontent-length: 3\r\n\r\n" % server.port
        )
        await pool.close()


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        (b"content-type: text/event-stream", b"text/event-stream"),
        (b"Content-Type:application/json;charset=utf-8", b"application/json"),
        (b"x: 1\r\nCONTENT-TYPE: \t Application/JSON ; a=b\r\ny: 2", b"application/json"),
        (b"content-type: text/html\r\ncontent-type: application/json", b"application/json"),
        (b"x-content-type: text/html", b""),
        (b"content-type:", b""),
        (b"x: 1", b""),
    ],
)
def test_the_form_of_a_body_stands_in_the_head_alone(lines: bytes, form: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n{\ncontent-type: text/plain\n}"
    assert form_in(line_of(head, FORM)) == form


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


async def test_what_has_come_already_is_not_waited_for() -> None:
    """It comes while nobody looks: a reader who is busy sending what came before."""
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(b"one"))
        await go_on.wait()
        await exchange.send(chunk(b"two"))
        await go_on.wait()
        await exchange.send(b"0\r\n\r\n")

    pool = Pool()
    async with asyncio.timeout(10), scripted(script) as server:
        response = await pool.request(ask(server))
        assert (await response.read(), response.take()) == (b"one", None)
        go_on.set()
        while not response._connection.complete:
            await asyncio.sleep(0)
        await response.more()
        assert response.take() == b"two" and response.over
        await response.more()
        assert response.take() == b""
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
        assert (response.status, response.header(b"link")) == (201, b"")
        assert await response.body(10) == b"real"
        await pool.close()


INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


async def test_signs_of_life_before_an_answer_may_be_more_than_a_head_is_long() -> None:
    signs = limits.HEADER_BYTES_MAX // len(INTERIM) + 9

    async def script(exchange: Exchange) -> None:
        for _ in range(signs):
            exchange.writer.write(INTERIM)
            await asyncio.sleep(0)  # a read each, or a few
        exchange.writer.write(INTERIM[:9])
        await exchange.send(INTERIM[9:] + b"HTTP/1.1 20", b"0 OK\r\ncontent-length: 4\r\n\r\nreal")

    pool = Pool()
    async with scripted(script) as server:
        for _ in range(2):
            async with await pool.request(ask(server)) as response:
                assert response.status == 200
                assert await response.body(10) == b"real"
        assert server.connections == 1
        await pool.close()


async def test_signs_of_life_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_INTERIMS_MAX", 3)

    async def script(exchange: Exchange) -> None:
        await exchange.send(INTERIM * 4)
        await exchange.gone()

    pool = Pool()
    async with scripted(script) as server:
        with pytest.raises(UpstreamError, match="more than 3 interim answers"):
            await pool.request(ask(server))
        await pool.close()


async def test_one_that_dies_behind_a_sign_of_life_has_not_begun_its_answer() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(INTERIM)
        exchange.writer.close()

    pool = Pool()
    async with scripted(script) as server:
        with pytest.raises(UpstreamError, match=r"closed the connection$") as caught:
            await pool.request(ask(server))
        assert caught.value.retryable
        await pool.close()


class Open(asyncio.Transport):
    """A connection of which nothing is heard but what a test says."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


@pytest.mark.parametrize(("sign", "given_up_s", "patience_s"), [(b"", 601, 600), (INTERIM, 3600 + 121, 120)])
async def test_silence_is_counted_from_the_last_sign_of_life(sign: bytes, given_up_s: int, patience_s: int) -> None:
    wheel = Wheel(1)
    connection = Connection("engine", wheel, Patience(600, 120), Outbox(), lambda gone: None)
    connection.connection_made(Open())
    connection.send(b"POST / HTTP/1.1\r\ncontent-length: ", b"")
    for second in range(given_up_s):
        connection.more()
        wheel.now_s = second
        if sign and second <= 3600 and second % 100 == 0:
            connection.data_received(sign)
        connection.look(second)
    connection.more()
    connection.look(given_up_s)
    with pytest.raises(UpstreamError, match=f"said nothing for {patience_s} s") as caught:
        connection.more()
    assert caught.value.retryable, "no word of an answer came"


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


@pytest.mark.parametrize(("sign", "said"), [(b"", "said nothing"), (INTERIM, "closed the connection")])
async def test_an_upstream_that_has_the_request_is_not_asked_it_twice(sign: bytes, said: str) -> None:
    """Silent until nobody waits any more, or at work by its own word and then gone: the connection was not stale."""

    async def script(exchange: Exchange) -> None:
        if len(server.exchanges) == 1:
            await exchange.answer(b"ok")
        elif sign:
            await exchange.send(sign)
            exchange.cut()
        else:
            await exchange.gone()

    pool = Pool(patience=Patience(first_byte_s=0.05, idle_s=0.1))
    async with scripted(script) as server:
        assert await whole(pool, ask(server)) == b"ok"
        with pytest.raises(UpstreamError, match=said) as caught:
            await pool.request(ask(server))
        assert caught.value.retryable, "another upstream may do better"
        assert [one.connection for one in server.exchanges] == [0, 0]
        await pool.close()


@pytest.mark.parametrize(("after_s", "may_be_stale"), [(1, True), (limits.UPSTREAM_STALE_S + 1, False)])
async def test_a_connection_that_was_stale_is_lost_soon(after_s: float, may_be_stale: bool) -> None:
    wheel = Wheel(1)
    connection = Connection("vendor", wheel, Patience(600, 120), Outbox(), lambda gone: None)
    connection.connection_made(Open())
    connection.rest()
    connection.send(b"POST / HTTP/1.1\r\ncontent-length: ", b"")
    wheel.now_s += after_s
    connection.connection_lost(None)
    assert connection.used == may_be_stale


async def test_who_met_a_dead_connection_waits_for_a_new_one_not_for_another_that_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_open, may_answer = asyncio.Event(), asyncio.Event()
    may_open.set()
    dial = Dial.open

    async def dial_when_told(self: Dial, make: Callable[[], Connection], connect_s: float) -> Connection:
        await may_open.wait()
        return await dial(self, make, connect_s)

    async def script(exchange: Exchange) -> None:
        while len(server.exchanges) < 2:
            await asyncio.sleep(0)
        if exchange.body == b"held":
            await may_answer.wait()
        if exchange.body == b"dies" and exchange.connection < 2:
            exchange.cut()
        else:
            await exchange.answer(b"ok")

    monkeypatch.setattr(Dial, "open", dial_when_told)
    pool = Pool()
    async with scripted(script) as server:
        await asyncio.gather(*(whole(pool, ask(server)) for _ in range(2)))
        may_open.clear()
        held = asyncio.ensure_future(whole(pool, ask(server, b"held")))
        dies = asyncio.ensure_future(whole(pool, ask(server, b"dies")))
        [host] = pool._hosts.values()
        while not host.waiters:
            await asyncio.sleep(0)
        may_answer.set()
        assert await held == b"ok"  # its connection is free now
        may_open.set()
        assert await dies == b"ok"
        assert [one.connection for one in server.exchanges if one.body == b"dies"][1:] == [2]
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

    pool = Pool(patience=Patience(0.05, 0.05, 0.02))
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

    pool = Pool(patience=Patience(idle_s=0.02))
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


async def test_what_nobody_read_of_one_answer_is_no_part_of_the_next() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"answer " + exchange.body)

    pool = Pool()
    async with scripted(script) as server:
        for _ in range(2):
            (await pool.request(ask(server, b"unread"))).close()
        assert await whole(pool, ask(server, b"read")) == b"answer read"
        assert server.connections == 1
        await pool.close()


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmine", b"HTT", b"nonsense"])
async def test_what_follows_an_answer_unasked_is_no_answer_to_the_next_request(more: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.connection == 0:
            await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst" + more)
        else:
            await exchange.answer(b"second")

    pool = Pool()
    async with scripted(script) as server:
        assert await whole(pool, ask(server)) == b"first"
        assert await whole(pool, ask(server)) == b"second"
        assert server.connections == 2
        await pool.close()


async def test_headers_are_found_whatever_came_with_them_and_after_the_connection_is_used_again() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.body == b"2":
            await exchange.send(b"HTTP/1.1 100 Continue\r\nX-A: no\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        lines = b"X-A:  one \r\nx-a: two" + exchange.body, b"Retry-After: 7", b"empty:"
        await exchange.answer(b"\r\nbody: x\r\n\r\n", 200, *lines)

    pool = Pool()
    async with scripted(script) as server:
        first = await pool.request(ask(server, b"1"))
        await first.body(100)
        assert first.over
        second = await pool.request(ask(server, b"2"))
        assert (first.header(b"x-a"), second.header(b"x-a")) == (b"two1", b"two2")
        for response in (first, second):
            assert response.header(b"retry-after") == b"7"
            assert (response.header(b"empty"), response.header(b"body"), response.header(b"x-b")) == (b"", b"", b"")
        second.close()
        assert server.connections == 1
        await pool.close()


async def test_small_writes_are_not_held_back() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"ok")

    pool = Pool()
    async with scripted(script) as server:
        response = await pool.request(ask(server))
        connection = response._connection
        assert connection is not None and connection._transport is not None
        line = connection._transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        response.close()
        await pool.close()


async def test_a_long_body_arrives_whole() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(exchange.body)

    pool = Pool()
    async with scripted(script) as server:
        body = bytes(range(256)) * 4096
        assert await asyncio.wait_for(whole(pool, ask(server, body)), 20) == body
        await pool.close()


async def test_without_a_task_a_request_goes_on_within_the_read_that_brings_its_answer() -> None:
    """Under a `Run`; another that waited for the connection sends within the same read."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(exchange.body)

    pool = Pool(connections_max=1)
    loop = asyncio.get_running_loop()
    answers: list[bytes] = []

    async def one(body: bytes) -> None:
        response = await pool.request(ask(server, body))
        answers.append(await response.read())
        assert response.over

    async with scripted(script) as server:
        runs = [Run(one(b"%d" % number), loop, lambda run: None) for number in range(4)]
        for run in runs:
            run.start()
        async with asyncio.timeout(10):
            while not all(run.over for run in runs):
                await asyncio.sleep(0)
        assert [run.error for run in runs] == [None] * 4
        assert answers == [b"0", b"1", b"2", b"3"]
        assert server.connections == 1
        await pool.close()


async def test_a_cancelled_run_closes_its_connection_and_one_that_waits_leaves_the_queue() -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.body == b"0":
            await exchange.gone()
            gone.set()
        else:
            await exchange.answer(exchange.body)

    pool = Pool(connections_max=1)
    loop = asyncio.get_running_loop()
    async with scripted(script) as server:
        runs = [Run(whole(pool, ask(server, b"%d" % number)), loop, lambda run: None) for number in range(3)]
        for run in runs:
            run.start()
        async with asyncio.timeout(10):
            while not server.exchanges:
                await asyncio.sleep(0)
            runs[1].cancel()
            runs[0].cancel()
            await gone.wait()
            while not runs[2].over:
                await asyncio.sleep(0)
        assert runs[2].result == b"2"
        assert [type(run.error) for run in runs[:2]] == [asyncio.CancelledError] * 2
        assert [exchange.body for exchange in server.exchanges] == [b"0", b"2"]
        await pool.close()


async def test_who_waits_when_the_pool_is_closed_is_told() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    pool = Pool(connections_max=1)
    async with scripted(script) as server:
        tasks = [asyncio.ensure_future(pool.request(ask(server))) for _ in range(2)]
        async with asyncio.timeout(10):
            while not server.exchanges:
                await asyncio.sleep(0)
        await pool.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in errors] == [
            "closed the connection",
            "is no longer asked: the platform stops",
        ]
        with pytest.raises(UpstreamError, match="no longer asked"):
            await pool.request(ask(server))


async def test_no_more_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_WAITERS_MAX", 2)

    async def script(exchange: Exchange) -> None:
        await exchange.gone()

    pool = Pool(connections_max=1)
    async with scripted(script) as server:
        tasks = [asyncio.ensure_future(pool.request(ask(server)))]
        async with asyncio.timeout(10):
            while not server.exchanges:
                await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(pool.request(ask(server))) for _ in range(2)]
        await asyncio.sleep(0)  # both wait now
        with pytest.raises(UpstreamError, match="too many requests waiting") as caught:
            await pool.request(ask(server))
        assert caught.value.retryable
        await pool.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_burst_opens_connections_one_after_the_other_up_to_the_bound_of_its_upstream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_OPENING_MAX", 2)
    go = asyncio.Event()
    opening = 0

    async def script(exchange: Exchange) -> None:
        nonlocal opening
        (host,) = pool._hosts.values()
        opening = max(opening, host._connecting)
        await go.wait()
        await exchange.answer(exchange.body)

    pool = Pool()
    async with scripted(script) as server:
        requests = [msgspec.structs.replace(ask(server, b"%d" % number), connections_max=5) for number in range(8)]
        tasks = [asyncio.ensure_future(whole(pool, request)) for request in requests]
        async with asyncio.timeout(10):
            while len(server.exchanges) < 5:
                await asyncio.sleep(0)
            go.set()
            assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(8)]
        assert (server.connections, opening) == (5, 2)
        await pool.close()
