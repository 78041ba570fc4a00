"""What counts as the same head again: everything else is read by the parser."""

import pytest

from steelyard.gateway.known_head import learnt
from steelyard.kernel import limits

HEADS = {b"authorization": b"Bearer x"}
LINES = b"POST /x HTTP/1.1\r\nAuthorization: Bearer x\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"
BODY = b'{"a": 1}'
REQUEST = LINES % len(BODY) + BODY


def test_the_same_head_gives_a_body_of_any_length() -> None:
    known = learnt(REQUEST, None, HEADS)  # type: ignore[arg-type]
    assert known is not None and known.heads is HEADS
    for body in (BODY, b"", b"x" * 1000, b"\r\n\r\nPOST"):
        assert known.body_of(LINES % len(body) + body) == body


def test_a_long_body_is_a_view_of_the_end_of_what_was_read() -> None:
    known = learnt(REQUEST, None, HEADS)  # type: ignore[arg-type]
    assert known is not None
    body = b"x" * limits.BODY_COPIED_BYTES
    data = LINES % len(body) + body
    view = known.body_of(data)
    assert isinstance(view, memoryview) and view.obj is data and view == body
    assert known.body_of(data + b"x") is None


@pytest.mark.parametrize(
    "data",
    [
        REQUEST[:-1],
        REQUEST + b"P",
        REQUEST + REQUEST,
        REQUEST.replace(b"Bearer x", b"Bearer y"),
        REQUEST.replace(b"*/*", b"*/x"),
        REQUEST.replace(b"h: 8", b"h: +8"),
        REQUEST.replace(b"h: 8", b"h: -8"),
        REQUEST.replace(b"h: 8", b"h:  8"),
        REQUEST.replace(b"h: 8", b"h: 8 "),
        REQUEST.replace(b"h: 8", b"h: 0x8"),
        REQUEST.replace(b"h: 8", b"h: "),
        REQUEST.replace(b"h: 8", b"h: \xb2"),
        REQUEST.replace(b"h: 8", b"h: 000000008"),
        REQUEST.replace(b"h: 8\r\n", b"h: 8\n"),
        REQUEST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
        b"\r\n" + REQUEST,
        b"",
    ],
)
def test_nothing_else_does(data: bytes) -> None:
    known = learnt(REQUEST, None, HEADS)  # type: ignore[arg-type]
    assert known is not None and known.body_of(data) is None


@pytest.mark.parametrize(
    "data",
    [
        REQUEST[:-1],
        REQUEST + REQUEST,
        REQUEST.replace(b"Content-Length: 8", b"Transfer-Encoding: chunked"),
        REQUEST.replace(b"Accept: */*", b"content-length: 8"),
        b"\r\n\r\n" + REQUEST,
        b"POST /x HTTP/1.1\r\n",
    ],
)
def test_what_is_no_whole_request_of_a_told_length_teaches_nothing(data: bytes) -> None:
    assert learnt(data, None, HEADS) is None  # type: ignore[arg-type]
