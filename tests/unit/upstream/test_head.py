"""A head that is compared with one that was read comes to what it comes to when it is read."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernel import limits
from steelyard.kernel.outbox import Outbox
from steelyard.upstream.head import FORM, form_in, known_of, line_of
from steelyard.upstream.http1 import Connection, Patience
from steelyard.upstream.wheel import Wheel

UVICORN = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 02:23:57 GMT\r\nserver: uvicorn\r\n"
    b"content-length: %d\r\ncontent-type: application/json\r\n\r\n%b"
)
SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length:%d\r\n\r\n%b"
KEPT = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nx-id: a\r\nContent-Length: %d\r\nX-\xc3: b\r\n\r\n%b"
BODY = b'{"a":"b"}'


class Wire:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None:
        self.closing = True


class Talk:
    """Answers on one connection, each to a question that was sent before; `reads`: it knows none again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, reads: bool) -> None:
        self.connection = Connection("u", Wheel(1), Patience(), Outbox(), lambda _: None)
        self.connection.connection_made(Wire())  # type: ignore[arg-type]
        self._loop = loop
        if reads:
            self.connection._learns = 0

    def hears(self, *reads: bytes) -> tuple[Any, ...]:
        """What it makes of one answer that comes in these reads."""
        one = self.connection
        if one.lost():
            return ("lost",)
        self._loop.run_until_complete(self._sent())
        for read in reads:
            one.data_received(read)
        body = b"".join(one.pieces)
        one.pieces.clear()
        ends = (one.head_done, one.complete, one.kept, one.answered, one.lost())
        form = one.form or form_in(line_of(one.head, FORM))
        found = (one.status, one.head, body, form, one._failed, *ends)
        if one.complete and one.kept:
            one.rest()
        else:
            one.abort()  # as whoever asked does
        return found

    async def _sent(self) -> None:
        self.connection.send(b"POST / HTTP/1.1\r\ncontent-length: ", b"{}")


@pytest.fixture(scope="module")
def loop() -> Any:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def answers(loop: asyncio.AbstractEventLoop, learnt: bytes, *talk: tuple[bytes, ...]) -> None:
    """Both, one after the other, on a connection that learnt this head and on one that reads all."""
    knows, reads = Talk(loop, reads=False), Talk(loop, reads=True)
    for said in ((learnt % (len(BODY), BODY),), *talk, (learnt % (len(BODY), BODY),)):
        assert knows.hears(*said) == reads.hears(*said), said


SAME = (
    UVICORN % (len(BODY), BODY),
    UVICORN.replace(b"02:23:57", b"03:00:00") % (2, b"{}"),
    UVICORN % (0, b""),
)
OTHER = (
    UVICORN % (len(BODY) + 1, BODY),
    UVICORN % (len(BODY) - 1, BODY),
    UVICORN % (len(BODY), BODY) * 2,
    UVICORN.replace(b"200 OK", b"429 No") % (2, b"{}"),
    UVICORN.replace(b"200 OK", b"204 OK") % (0, b""),
    UVICORN.replace(b"HTTP/1.1", b"HTTP/1.0") % (2, b"{}"),
    UVICORN.replace(b"uvicorn", b"uvi\ncorn") % (2, b"{}"),
    UVICORN.replace(b"uvicorn", b"uvi\rcorn") % (2, b"{}"),
    UVICORN.replace(b"uvicorn", b"uvi\x00corn") % (2, b"{}"),
    UVICORN.replace(b"uvicorn", b"u\r\n corn") % (2, b"{}"),
    UVICORN.replace(b"server: uvicorn", b"connection: close") % (2, b"{}"),
    UVICORN.replace(b"server: uvicorn", b"transfer-encoding: chunked") % (2, b"{}"),
    UVICORN.replace(b"server: uvicorn", b"content-length: 3") % (2, b"{}"),
    UVICORN.replace(b"server: uvicorn", b"server : uvicorn") % (2, b"{}"),
    UVICORN.replace(b"application/json", b"text/html") % (2, b"{}"),
    UVICORN.replace(b": %d", b": +%d") % (2, b"{}"),
    UVICORN.replace(b": %d", b": 0%d") % (2, b"{}"),
    UVICORN.replace(b": %d", b": 1%d, 2") % (2, b"{}"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + UVICORN % (2, b"{}"),
    b"nonsense",
)


@pytest.mark.parametrize("learnt", [UVICORN, SHORT, KEPT], ids=["uvicorn", "short", "kept"])
@pytest.mark.parametrize("said", SAME + OTHER)
def test_what_comes_is_read_or_known_to_the_same_end(
    loop: asyncio.AbstractEventLoop, learnt: bytes, said: bytes
) -> None:
    answers(loop, learnt, (said,))
    answers(loop, learnt, (said[:40], said[40:]))
    answers(loop, learnt, (b"HTTP/1.1 100 Continue\r\n\r\n", said))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_so_does_what_is_spoilt_anywhere(loop: asyncio.AbstractEventLoop, data: st.DataObject) -> None:
    said = bytearray(UVICORN % (len(BODY), BODY))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(said)))
        said[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([b"", b"\r", b"\n", b":", b" ", b"7"]))
    answers(loop, UVICORN, (bytes(said),))


@pytest.mark.parametrize("head", [UVICORN, SHORT])
def test_one_like_it_is_known_and_not_read(loop: asyncio.AbstractEventLoop, head: bytes) -> None:
    talk = Talk(loop, reads=False)
    talk.hears(head % (2, b"{}"))
    talk.connection._feed = lambda _: pytest.fail("it was read")
    assert talk.hears(head % (len(BODY), BODY))[2] == BODY
    assert talk.connection.form == b"application/json"


def test_a_connection_whose_heads_are_never_alike_stops_learning(loop: asyncio.AbstractEventLoop) -> None:
    talk = Talk(loop, reads=False)
    for number in range(limits.UPSTREAM_LOOKS_LEARNT_MAX + 2):
        talk.hears(b"HTTP/1.1 200 OK\r\nx-%d: a\r\ncontent-length: 2\r\n\r\n{}" % number)
    assert talk.connection._known == known_of(b"HTTP/1.1 200 OK\r\nx-7: a\r\ncontent-length: 2\r\n\r\n")


@pytest.mark.parametrize(
    "lines", [b"", b"upgrade: h2c", b"trailer: x", b"transfer-encoding: gzip", b"content-length: 2\r\n x: y"]
)
def test_what_is_odd_is_left_to_the_parser(lines: bytes) -> None:
    length = b"" if not lines or lines.startswith(b"content") else b"content-length: 2\r\n"
    assert known_of(b"HTTP/1.1 200 OK\r\n" + length + lines + b"\r\n\r\n") is None
