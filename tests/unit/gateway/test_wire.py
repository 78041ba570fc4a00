"""Headers as lines and back again: both fronts send the same. And a wire that fails at its end."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.exchange import Border
from steelyard.gateway.wire import AsgiWire, Headers, headers_of, lines_of


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


class Broken(AsgiWire):
    """It cannot end: uvicorn is not as it was."""

    def __init__(self) -> None:
        self.started, self.gone, self._watcher = True, False, None

    def end(self) -> Any:
        raise RuntimeError("not as expected")


async def test_a_wire_that_cannot_end_is_told_of_and_stops_nobody_else() -> None:
    rest = Border(Chat(), Broken(), bytes(16)).over(None)
    assert rest is not None
    with capture_logs() as logs:
        await rest
    assert [line["event"] for line in logs] == ["request_failed"]
