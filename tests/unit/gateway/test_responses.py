"""/v1/responses over real sockets; upstream, teller and the books' shelf are fakes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.parties import KEY, ScriptedUpstream, words
from tests.unit.gateway.test_messages import dechunked, header_of
from tests.unit.gateway.test_public import Site, body_of, status_of
from tests.unit.gateway.test_responses_answer import events

from steelyard.gateway.once import RecordingWire
from steelyard.gateway.responses_answer import STREAM_END, ResponseStream
from steelyard.gateway.responses_dialect import Responses
from steelyard.gateway.responses_request import order_of, read_responses
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError, unavailable
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.stored import StoredResponse

ASK = {"model": "m", "max_output_tokens": 20, "input": "Hello"}


class FakeShelf:
    """The books' shelf in memory. Nothing is taken before `open` is set."""

    connected = True
    series = "w0-1"

    def __init__(self) -> None:
        self.kept: dict[bytes, StoredResponse] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.away = False
        self.asked: list[str] = []

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        self.asked.append(op)
        if self.away:
            raise unavailable("books_unavailable", "The books are not reachable.")
        await self.open.wait()
        ids = payload.get("ids", ())
        match op:
            case "response.put":
                self.kept[payload["id"]] = StoredResponse(**payload)
            case "response.find":
                return [msgspec.to_builtins(self.kept[one], builtin_types=(bytes,)) for one in ids if one in self.kept]
            case "response.drop":
                return self.kept.pop(ids[0], None) is not None
        return None


def request(method: str = "POST", path: str = "/v1/responses", *headers: str, **fields: Any) -> bytes:
    body = json.dumps({**ASK, **fields}).encode() if method == "POST" else b""
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", "connection: close"]
    lines += [f"authorization: Bearer {KEY}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def site_of(folder: Path, *script: Event | Exception, strict: bool = False) -> tuple[Site, FakeShelf]:
    site = Site(folder, ScriptedUpstream(list(script) or words("Hel", "lo", cached=4)), strict)
    shelf = FakeShelf()
    site.office = shelf  # type: ignore[assignment]
    return site, shelf


async def until_here(reader: asyncio.StreamReader, what: bytes) -> bytes:
    """Read until it has come."""
    read = b""
    async with asyncio.timeout(10):
        while what not in read:
            piece = await reader.read(65536)
            assert piece, read
            read += piece
    return read


@pytest.mark.parametrize("strict", [False, True])
async def test_a_body_and_what_is_stored_of_it_are_the_same(tmp_path: Path, strict: bool) -> None:
    site, shelf = site_of(tmp_path, strict=strict)
    async with site.open():
        answer = await site.ask(request())
        assert status_of(answer) == 200, answer
        response = body_of(answer)
        assert response["output"][0]["content"][0]["text"] == "Hello" and response["store"] is True
        assert response["id"] == "resp_" + (header_of(answer, "x-request-id") or "").removeprefix("req_")
        assert response["usage"]["steelyard"]["charge"] == header_of(answer, "x-steelyard-charge")
        (closed,) = site.closed()
        assert (closed.usage.input, closed.usage.cached_input, closed.usage.output) == (6, 4, 2)
        (kept,) = shelf.kept.values()
        assert json.loads(kept.body) == response
        assert (kept.tenant_id, kept.project_id, kept.previous_id) == (1, 1, None)
        found = await site.ask(request("GET", f"/v1/responses/{response['id']}"))
        assert (status_of(found), body_of(found)) == (200, response)


async def test_only_the_last_piece_waits_for_the_books(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path)
    shelf.open.clear()
    async with site.open():
        for stream, everything_else in ((True, b"response.output_text.delta"), (False, b'"text":"Hello"')):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(request(stream=stream))
            read = await until_here(reader, everything_else)
            assert b"response.completed" not in read and not shelf.kept
            shelf.open.set()
            rest = read + await reader.read()
            assert STREAM_END in rest if stream else rest.endswith(b"}")
            assert len(shelf.kept) == 1
            shelf.kept.clear()
            shelf.open.clear()
            writer.close()
        assert [closed.end for closed in site.closed()] == ["complete", "complete"]


async def test_who_hangs_up_before_the_last_piece_pays_and_can_read_it_later(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path)
    shelf.open.clear()
    async with site.open():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request())
        await until_here(reader, b'"text":"Hello"')
        writer.close()
        await site.until(site.closed, "the request to close")
        shelf.open.set()
        await site.until(lambda: shelf.kept, "the response to be stored")
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output) == ("complete", 2)


async def test_an_answer_does_not_fail_because_the_books_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESPONSE_TAKEN_WAIT_S", 0.05)
    site, shelf = site_of(tmp_path)
    shelf.away = True
    async with site.open():
        seen = events(dechunked(await site.ask(request(stream=True))))
        assert seen[-1]["type"] == "response.completed"
        assert not shelf.kept
        shelf.away = False
        await site.until(lambda: shelf.kept, "the response to be brought again")


async def test_nothing_is_stored_that_should_not_be(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path)
    async with site.open():
        for stream in (False, True):
            answer = await site.ask(request(store=False, stream=stream))
            assert status_of(answer) == 200
        assert shelf.asked == [], "the books hear nothing of it"
        assert status_of(await site.ask(request(max_output_tokens=-1))) == 400
        assert shelf.asked == []


async def test_a_house_that_stores_nothing_says_so(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path)
    site.stores = False
    async with site.open():
        for asked, named in (({}, None), ({"store": True}, "store"), ({"store": False}, None)):
            answer = await site.ask(request(**asked))
            assert (body_of(answer)["store"], header_of(answer, "x-steelyard-ignored")) == (False, named)
        assert shelf.asked == []


async def test_an_item_that_was_sent_again_is_listed_once(tmp_path: Path) -> None:
    """Or pages would go round for ever: the next one begins behind an id."""
    site, _ = site_of(tmp_path)
    async with site.open():
        items = [{"id": f"msg_{name}", "role": "user", "content": name} for name in "abac"]
        response = body_of(await site.ask(request(input=items)))
        page = body_of(await site.ask(request("GET", f"/v1/responses/{response['id']}/input_items?order=asc")))
        assert [item["id"] for item in page["data"]] == ["msg_a", "msg_b", "msg_c"]


async def test_a_failure_amid_a_stream_is_stored_as_one(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path, Event("He", Usage(10, 0, 1)), UpstreamError("fake", "secret"))
    async with site.open():
        answer = await site.ask(request(stream=True))
        seen = events(dechunked(answer))
        assert [event["type"] for event in seen][-2:] == ["response.failed", "error"]
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output) == ("upstream_error", 1)
        assert seen[-2]["response"]["usage"]["output_tokens"] == 1
        await site.until(lambda: shelf.kept, "the response to be stored")
        (kept,) = shelf.kept.values()
        assert json.loads(kept.body)["status"] == "failed" and b"secret" not in answer + kept.body


async def test_a_failure_before_the_first_byte_is_an_error_and_nothing_is_stored(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path, UpstreamError("fake", "x", status=503, retryable=True))
    async with site.open():
        for stream in (False, True):
            assert status_of(await site.ask(request(stream=stream))) == 503
        assert shelf.asked == []


async def test_what_an_upstream_refuses_is_named_as_the_customer_named_it(tmp_path: Path) -> None:
    refusal = UpstreamError("fake", "'messages[1].content[0]': text only", status=400, param="messages[1].content[0]")
    site, _ = site_of(tmp_path, refusal)
    async with site.open():
        error = body_of(await site.ask(request(instructions="x", input=[{"role": "user", "content": "y"}])))["error"]
        assert error["param"] == "input[0].content[0]"


async def test_pages_of_input_items(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path)
    async with site.open():
        items = [{"role": "user", "content": str(place)} for place in range(5)]
        place = "/v1/responses/" + body_of(await site.ask(request(input=items)))["id"] + "/input_items"

        async def listed(query: str) -> tuple[list[str], bool, Any]:
            page = body_of(await site.ask(request("GET", place + query)))
            return [item["content"][0]["text"] for item in page["data"]], page["has_more"], page["last_id"]

        assert (await listed(""))[:2] == (["4", "3", "2", "1", "0"], False)
        texts, more, last_id = await listed("?order=asc&limit=2")
        assert (texts, more) == (["0", "1"], True)
        assert (await listed(f"?order=asc&limit=3&after={last_id}"))[:2] == (["2", "3", "4"], False)
        assert (await listed(f"?limit=1&after={last_id}"))[:2] == (["0"], False)
        for query, param in (
            ("?order=up", "order"),
            ("?limit=0", "limit"),
            ("?limit=x", "limit"),
            ("?limit=101", "limit"),
            (f"?limit=000000001{'0' * 5000}", "limit"),
        ):
            answer = await site.ask(request("GET", place + query))
            assert (status_of(answer), body_of(answer)["error"]["param"]) == (400, param)
        assert status_of(await site.ask(request("GET", place + "?after=msg_x"))) == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/responses/resp_x", 405),
        ("GET", "/v1/responses/resp_x", 404),
        ("DELETE", "/v1/responses/resp_x", 404),
        ("DELETE", "/v1/responses/resp_" + "0" * 32, 404),
        ("GET", "/v1/responses/resp_x/input_items", 404),
        ("POST", "/v1/responses/resp_x/cancel", 404),
        ("POST", "/v1/responses/compact", 405),
    ],
)
async def test_every_error_has_the_dialects_shape(tmp_path: Path, method: str, path: str, status: int) -> None:
    site, _ = site_of(tmp_path)
    async with site.open():
        answer = await site.ask(request(method, path))
        assert status_of(answer) == status, answer
        assert set(body_of(answer)["error"]) == {"message", "type", "param", "code"}
        assert header_of(answer, "x-request-id")


async def test_without_a_key_nothing_is_shown(tmp_path: Path) -> None:
    site, shelf = site_of(tmp_path)
    async with site.open():
        response_id = body_of(await site.ask(request()))["id"]
        shelf.asked.clear()
        raw = request("GET", f"/v1/responses/{response_id}").replace(KEY.encode(), b"sk-sy-nobody")
        assert status_of(await site.ask(raw)) == 401
        stranger = request(previous_response_id=response_id).replace(KEY.encode(), b"sk-sy-nobody")
        assert status_of(await site.ask(stranger)) == 401
        assert shelf.asked == []


async def test_a_stream_is_whole_by_this_dialects_own_end() -> None:
    async def send(message: Any) -> None: ...

    for closed in (True, False):
        wire = RecordingWire(Responses(), {"headers": []}, None, send)
        stream = ResponseStream(order_of(read_responses(b'{"model":"m","input":"x","stream":true}'), bytes(16)), 0)
        await wire.send(stream.render(0, Event("Hello")))
        await wire.send(stream.closing(Usage(1, 0, 1)) if closed else stream.failing(UpstreamError("u", "x")))
        assert wire.saw_stream_end is closed


def test_the_dialect_alone_stores_nothing_and_goes_on_from_nothing() -> None:
    """As a line of a batch is asked: there are no books beside it."""
    asked = Responses().read(b'{"model":"m","input":"x"}', {"headers": []}, bytes(16), 0)
    asked.form.closing(Usage(1, 0, 1))
    assert json.loads(asked.form.encoded)["store"] is False  # type: ignore[attr-defined]
    with pytest.raises(CallerError) as caught:
        Responses().read(b'{"model":"m","previous_response_id":"resp_1"}', {"headers": []}, bytes(16), 0)
    assert caught.value.param == "previous_response_id"
