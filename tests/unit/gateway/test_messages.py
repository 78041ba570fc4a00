"""/v1/messages over real sockets; upstream and teller are fakes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.parties import KEY, ScriptedUpstream, words
from tests.unit.gateway.test_messages_answer import blocks_of, events
from tests.unit.gateway.test_public import Site, body_of, status_of

from steelyard.gateway.messages_answer import MessageStream
from steelyard.gateway.messages_dialect import Messages
from steelyard.gateway.once import RecordingWire
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order

ASK = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}


def request(path: str = "/v1/messages", *headers: str, raw: bytes | None = None, **fields: Any) -> bytes:
    body = json.dumps({**ASK, **fields}).encode() if raw is None else raw
    key = () if any(h.startswith(("x-api-key", "authorization")) for h in headers) else (f"x-api-key: {KEY}",)
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", "connection: close", *key, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def header_of(answer: bytes, name: str) -> str | None:
    for line in answer.split(b"\r\n\r\n", 1)[0].decode().split("\r\n")[1:]:
        if line.lower().startswith(name + ": "):
            return line.split(": ", 1)[1]
    return None


def dechunked(answer: bytes) -> bytes:
    rest, body = answer.split(b"\r\n\r\n", 1)[1], b""
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages?beta=true", "/messages", "/v1/v1/messages"])
async def test_a_body_is_served_under_every_base(tmp_path: Path, path: str) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo", cached=4))).open() as site:
        answer = await site.ask(request(path, "anthropic-version: 2026-10-21"))
        assert status_of(answer) == 200, answer
        message = body_of(answer)
        assert message["content"] == [{"type": "text", "text": "Hello"}]
        assert message["id"] == "msg_" + (header_of(answer, "request-id") or "").removeprefix("req_")
        usage = message["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (6, 4, 2)
        assert usage["steelyard"]["charge"] == header_of(answer, "x-steelyard-charge")
        (closed,) = site.closed()
        assert (closed.usage.input, closed.usage.cached_input, closed.usage.output) == (6, 4, 2)


async def test_a_stream_ends_with_all_counts(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo"))).open() as site:
        answer = await site.ask(request(stream=True))
        assert header_of(answer, "content-type") == "text/event-stream; charset=utf-8"
        seen = events(dechunked(answer))
        assert blocks_of(seen) == [{"type": "text", "text": "Hello"}]
        assert seen[-1] == {"type": "message_stop"}
        assert seen[-2]["usage"]["output_tokens"] == site.closed()[0].usage.output == 2


@pytest.mark.parametrize(
    "headers",
    [
        [f"authorization: Bearer {KEY}"],
        [f"x-api-key: {KEY}"],
        [f"x-api-key: {KEY}", "authorization: Bearer something-else"],
        ["x-api-key: ", f"authorization: Bearer {KEY}"],
    ],
)
async def test_the_key_stands_in_either_header(tmp_path: Path, headers: list[str]) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        assert status_of(await site.ask(request("/v1/messages", *headers))) == 200


async def test_betas_reach_the_upstream_and_what_comes_to_nothing_is_named(tmp_path: Path) -> None:
    seen: list[dict] = []

    class Listening(ScriptedUpstream):
        async def stream(self, offer, params, *rest):  # type: ignore[no-untyped-def]
            seen.append(params)
            async for event in super().stream(offer, params, *rest):
                yield event

    async with Site(tmp_path, Listening(words("x"))).open() as site:
        answer = await site.ask(
            request("/v1/messages?beta=true", "anthropic-beta: a-1,b-2", odd=1, context_management={})
        )
        assert json.loads(bytes(seen[0]["anthropic_beta"])) == ["a-1", "b-2"]
        assert json.loads(bytes(seen[0]["odd"])) == 1
        assert header_of(answer, "x-steelyard-ignored") == "context_management,odd"


@pytest.mark.parametrize(
    ("raw", "status", "kind"),
    [
        (request(raw=b"{"), 400, "invalid_request_error"),
        (request(raw=b"{}"), 400, "invalid_request_error"),
        (request(max_tokens=None), 400, "invalid_request_error"),
        (request(model="other"), 404, "not_found_error"),
        (request("/v1/messages", "x-api-key: sk-sy-nobody"), 401, "authentication_error"),
        (request("/v1/messages", "authorization: Basic x"), 401, "authentication_error"),
        (request("/v1/messages/nowhere"), 404, "not_found_error"),
        (b"GET /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, "invalid_request_error"),
        (b"DELETE /messages/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "not_found_error"),
        (request(raw=b"{}").replace(b"content-length: 2", b"content-length: 999999999"), 413, "request_too_large"),
    ],
)
async def test_every_error_has_this_dialects_shape(tmp_path: Path, raw: bytes, status: int, kind: str) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        answer = await site.ask(raw)
        assert status_of(answer) == status
        error = body_of(answer)
        assert set(error) == {"type", "error", "request_id"}
        assert (error["type"], error["error"]["type"]) == ("error", kind)
        assert error["request_id"] == header_of(answer, "request-id")
        assert site.closed() == []


MANY = json.dumps([{"role": "user", "content": "x"}] * 10_001)
BODY = '{"model":"m","max_tokens":5,"messages":[{"role":"user","content":%s}]%s}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"[]",
        b'"x"',
        (BODY % ('"x"', "")).encode()[:-1],
        (BODY % ('"x"', ',"max_tokens":NaN')).encode(),
        (BODY % ('"x"', ',"max_tokens":1e99')).encode(),
        (BODY % ('"x"', ',"max_tokens":-5')).encode(),
        (BODY % ('"x"', ',"messages":[]')).encode(),  # a key twice: the last one counts
        (BODY % ('"\\ud800"', "")).encode(),
        (BODY % ('"', "")).encode() + b'\xff"',
        (BODY % ('"x"', ',"tools":' + "[" * 3000 + "]" * 3000)).encode(),
        (BODY % ('"x"', ',"tools":[{"name":"t","input_schema":{"a":' + "[" * 3000 + "]" * 3000 + "}}]")).encode(),
        (BODY % ('"x"', ',"tools":[{"name":"t"}]')).encode(),
        (BODY % ('"x"', ',"tool_choice":{"type":"tool","name":"t"}')).encode(),
        (BODY % ('[{"type":"tool_result","tool_use_id":"t"}]', "")).encode(),
        b'{"model":"m","max_tokens":5,"messages":' + MANY.encode() + b"}",
    ],
    ids=range(17),
)
async def test_bad_input_is_400_and_harms_nobody(tmp_path: Path, raw: bytes) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = await site.ask(request(path, raw=raw))
            assert (status_of(answer), body_of(answer)["error"]["type"]) == (400, "invalid_request_error")
        assert site.closed() == [] and site.teller.asked == []
        assert status_of(await site.ask(request())) == 200


@pytest.mark.parametrize(
    "content", ["", "x" * 3_000_000, "\ufffe\u0000 <|im_end|>", [{"type": "text", "text": ""}] * 9_000]
)
async def test_odd_but_possible_input_is_served(tmp_path: Path, content: Any) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        messages = [{"role": "user", "content": content}]
        assert status_of(await site.ask(request(messages=messages))) == 200


async def test_an_empty_wallet_is_a_billing_error(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        site.teller.purse_nano = 0
        answer = await site.ask(request())
        assert (status_of(answer), body_of(answer)["error"]["type"]) == (402, "billing_error")
        assert header_of(answer, "x-should-retry") == "false"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (UpstreamError("fake", "x", status=503, retryable=True), 503, "overloaded_error"),
        (UpstreamError("fake", "x", status=429, retryable=True), 529, "overloaded_error"),
        (UpstreamError("fake", "x"), 502, "api_error"),
        (RuntimeError("boom"), 500, "api_error"),
        (CallerError(429, "rate_limit_exceeded", "slow", retry_after_s=7), 429, "rate_limit_error"),
    ],
)
async def test_failures_before_the_first_byte(tmp_path: Path, failure: Exception, status: int, kind: str) -> None:
    async with Site(tmp_path, ScriptedUpstream([failure])).open() as site:
        answer = await site.ask(request())
        assert (status_of(answer), body_of(answer)["error"]["type"]) == (status, kind)
        assert site.closed()[0].usage.total == 0


async def test_a_failure_in_mid_stream_is_told_and_settled_at_what_was_delivered(tmp_path: Path) -> None:
    script: list[Event | Exception] = [Event("a", Usage(10, 0, 1)), UpstreamError("fake", "secret")]
    async with Site(tmp_path, ScriptedUpstream(script)).open() as site:
        answer = await site.ask(request(stream=True))
        seen = events(dechunked(answer))
        assert [event["type"] for event in seen][-2:] == ["content_block_delta", "error"]
        assert b"secret" not in answer
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output) == ("upstream_error", 1)


async def test_what_an_upstream_refuses_is_named_as_the_customer_named_it(tmp_path: Path) -> None:
    refusal = UpstreamError("fake", "'messages[1].content[0]': text only", status=400, param="messages[1].content[0]")
    async with Site(tmp_path, ScriptedUpstream([refusal])).open() as site:
        answer = await site.ask(request(system="Be brief."))
        error = body_of(answer)["error"]
        assert error["message"].startswith("'messages[0].content[0]'")
        assert error["param"] == "messages[0].content[0]"


async def test_a_count_is_what_would_be_metered_and_costs_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x", prompt=31, cached=30))).open() as site:
        for base in ("/v1", "", "/v1/v1"):
            answer = await site.ask(request(f"{base}/messages/count_tokens?beta=true", max_tokens=None))
            assert (status_of(answer), body_of(answer)) == (200, {"input_tokens": 31})
        assert header_of(answer, "request-id")
        assert site.closed() == [] and site.teller.asked == []


@pytest.mark.parametrize(
    ("raw", "script", "status"),
    [
        (request("/v1/messages/count_tokens", "x-api-key: sk-sy-nobody"), words("x"), 401),
        (request("/v1/messages/count_tokens", model="other"), words("x"), 404),
        (request("/v1/messages/count_tokens", raw=b"{"), words("x"), 400),
        (request("/v1/messages/count_tokens"), [Event()], 404),
        (request("/v1/messages/count_tokens", system="x" * 65_000), words("x"), 400),
        (request("/v1/messages/count_tokens"), [UpstreamError("fake", "no", status=400)], 400),
        (request("/v1/messages/count_tokens"), [UpstreamError("fake", "away", retryable=True)], 503),
        (b"GET /v1/messages/count_tokens HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", [], 405),
    ],
)
async def test_a_count_that_cannot_be_given(tmp_path: Path, raw: bytes, script: list[Any], status: int) -> None:
    async with Site(tmp_path, ScriptedUpstream(script)).open() as site:
        answer = await site.ask(raw)
        assert status_of(answer) == status
        assert body_of(answer)["type"] == "error"


async def test_not_everybody_counts_at_once(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Slow(ScriptedUpstream):
        async def count(self, *arguments):  # type: ignore[no-untyped-def]
            self.running += 1
            await gate.wait()
            return 1

    upstream = Slow([])
    async with Site(tmp_path, upstream).open() as site:
        asked = [
            asyncio.ensure_future(site.ask(request("/v1/messages/count_tokens")))
            for _ in range(limits.COUNTS_AT_ONCE_MAX)
        ]
        await site.until(lambda: upstream.running == len(asked), "all counts to run")
        answer = await site.ask(request("/v1/messages/count_tokens"))
        assert (status_of(answer), body_of(answer)["error"]["type"]) == (529, "overloaded_error")
        gate.set()
        assert {status_of(each) for each in await asyncio.gather(*asked)} == {200}


async def test_a_stream_is_whole_by_this_dialects_own_end() -> None:
    async def send(message: Any) -> None: ...

    for closed in (True, False):
        wire = RecordingWire(Messages(), {"headers": []}, None, send)
        stream = MessageStream(Order(bytes(16), "m", {}, 10, None, 1, True), True)
        await wire.send(stream.render(0, Event("Hello")))
        if closed:
            await wire.send(stream.closing(Usage(1, 0, 1)))
        assert wire.saw_stream_end is closed
