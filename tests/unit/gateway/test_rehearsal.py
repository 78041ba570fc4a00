"""A front that does not play its part in this version of uvicorn is given up before it serves."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.fakes.parties import ScriptedUpstream, words
from tests.unit.gateway.test_public import Site, chat, request, status_of
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard.gateway.exact import ExactProtocol
from steelyard.gateway.fast import FastWire
from steelyard.gateway.rehearsal import complaint
from steelyard.gateway.server import FRONTS, public_server, public_socket
from steelyard.kernel.errors import StartError


@pytest.mark.parametrize("name", FRONTS)
async def test_both_rehearse_well_in_this_version(name: str) -> None:
    assert await complaint(FRONTS[name]) == ""


@pytest.mark.parametrize("name", ["on_response_complete", "on_message_begin", "_unset_keepalive_if_required"])
async def test_what_uvicorn_may_rename_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, name)
    assert await complaint(FRONTS["fast"])


async def test_another_way_to_hold_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FlowControl, "pause_reading")
    assert await complaint(FRONTS["fast"])


async def test_a_queue_that_does_not_move_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpToolsProtocol, "on_response_complete", lambda self: None)
    assert "answered with" in await complaint(FRONTS["fast"])


async def test_without_the_fast_front_the_other_one_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: FastWire) -> None:
        raise AttributeError("'FastProtocol' object has no attribute 'pipeline'")

    monkeypatch.setattr(FastWire, "end", odd)
    with capture_logs() as logs:
        async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
            assert site.server.config.http_protocol_class is ExactProtocol
            assert status_of(await site.ask(request(chat()))) == 200
    (told,) = [line for line in logs if line["event"] == "front_given_up"]
    assert told["front"] == "fast" and told["reason"]


async def test_without_any_front_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be counted when it leaves is not sold."""
    monkeypatch.delattr(HttpToolsProtocol, "on_message_begin")
    listener = public_socket("127.0.0.1", 0)
    with capture_logs(), pytest.raises(StartError, match="uvicorn"):
        await public_server(None, {}, 1, lambda: None)._serve([listener])
    assert listener.fileno() == -1
