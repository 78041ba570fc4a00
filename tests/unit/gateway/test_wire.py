"""Headers as lines and back again: both fronts send the same."""

import pytest

from steelyard.gateway.wire import Headers, headers_of, lines_of


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"7")],
        [(b"x-steelyard-model", b"a: b"), (b"x-request-id", b"req_1"), (b"x-request-id", b"")],
    ],
)
def test_headers_are_what_their_lines_say(headers: Headers) -> None:
    assert headers_of(lines_of(headers)) == headers
