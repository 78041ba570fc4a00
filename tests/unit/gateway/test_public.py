"""The public port over real sockets: framing, hang-ups, back-pressure; upstream and teller are fakes."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk
from tests.fakes.parties import KEY, FakeTeller, ScriptedUpstream, words

from steelyard.flow import House
from steelyard.gateway.app import PublicApp
from steelyard.gateway.server import public_server, public_socket
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.ids import Ids
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.settled import Closed, Position
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}


class FakeOffice:
    connected = True

    async def command(self, op: str, payload: dict) -> object:
        return {"metrics": "steelyard_up 1\n"}[op]


class Site:
    """A served PublicApp, its journal, and raw connections to it."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, strict: bool = False) -> None:
        self.clock = SystemClock()
        self.disk = FaultyDisk()
        self.journal = Journal.create(folder / "w0-1", segment_bytes=1 << 20, disk=self.disk)
        self.meter = Meter(self.journal, Slots.create(folder / "w0-1" / "slots", 64), self.clock, EnergyClocks(folder))
        self.teller = FakeTeller()
        self.house = House(self.teller, self.meter, {"fake": upstream}, self.clock, strict)
        self.folder = folder / "w0-1"
        self.office = FakeOffice()
        self.stores = True
        self.front = "auto"
        self.drain_s = 2
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Site"]:
        listener = public_socket("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        ready = asyncio.Event()
        app = PublicApp(self.house, self.office, Ids(self.clock), stores=self.stores)
        self.server = server = public_server(app, app.hot, self.drain_s, ready.set, self.front)
        task = asyncio.ensure_future(server._serve([listener]))
        await ready.wait()
        try:
            yield self
        finally:
            server.should_exit = True
            await task
            self.meter.close()

    def closed(self) -> list[Closed]:
        self.journal.sync()
        batch = read(self.folder, Position(0, 0), until=self.journal.end, max_records=1000)
        return [record for record in batch.records if isinstance(record, Closed)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    async def ask(self, raw: bytes) -> bytes:
        """Send bytes, close our half, return all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return answer


def request(body: bytes, *headers: str, path: str = "/v1/chat/completions", last: bool = True) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {KEY}",
        f"content-length: {len(body)}",
        *(["connection: close"] if last else []),
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(**fields: object) -> bytes:
    return json.dumps({**HELLO, **fields}).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> dict:
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])


async def test_a_body_and_a_stream_are_served_and_recorded(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo"))).open() as site:
        answer = await site.ask(request(chat()))
        assert status_of(answer) == 200
        assert body_of(answer)["choices"][0]["message"]["content"] == "Hello"
        assert b"\r\nx-request-id: req_" in answer
        streamed = await site.ask(request(chat(stream=True)))
        assert streamed.count(b"data: ") == 5
        assert b"[DONE]" in streamed and streamed.endswith(b"0\r\n\r\n")
        assert [c.usage.output for c in site.closed()] == [2, 2]


async def test_requests_are_pipelined_on_one_connection(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        answer = await site.ask(request(chat(), last=False) * 3 + request(chat()))
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        assert len(site.closed()) == 4


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(b"{}", last=True).replace(b"content-length: 2", b"content-length: 999999999"), 413),
        (request(b"{"), 400),
        (request(b"{}"), 400),
        (request(chat(model="other")), 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n", 401),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 401),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_every_request_gets_its_status(tmp_path: Path, raw: bytes, status: int) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        assert status_of(await site.ask(raw)) == status
        assert site.closed() == []


async def test_an_endless_chunked_body_is_cut_off(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(limits.BODY_BYTES_MAX // 0x100000 + 1):
            writer.write(piece)
        answer = await asyncio.wait_for(reader.readline(), 10)
        assert b"413" in answer
        writer.close()
        assert site.closed() == []


async def test_a_hang_up_in_mid_stream_cancels_the_upstream_and_settles(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Gated(ScriptedUpstream):
        async def stream(self, *arguments):  # type: ignore[no-untyped-def]
            async for event in super().stream(*arguments):
                yield event
                if event.text == "b":
                    await gate.wait()

    upstream = Gated(words("a", "b", "c"))
    async with Site(tmp_path, upstream).open() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request(chat(stream=True)))
        async with asyncio.timeout(10):
            seen = b""
            while b'"b"' not in seen:
                seen += await reader.read(1000)
        writer.close()
        await site.until(site.closed, "the close record")
        (closed,) = site.closed()
        assert closed.end == "client_gone"
        assert closed.usage == Usage(10, 0, 2, closed.usage.cpu_ns, closed.usage.energy_uj)
        assert upstream.running == 0


async def test_a_reader_who_stops_reading_is_not_billed_for_what_we_still_hold(tmp_path: Path) -> None:
    """Kernel buffers fill; what stays in our own process does not count as delivered."""
    piece = "x" * 65536
    script = [Event(piece, Usage(10, 0, place)) for place in range(1, 501)]
    upstream = ScriptedUpstream(script)
    async with Site(tmp_path, upstream).open() as site:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", site.port))
        await loop.sock_sendall(raw, request(chat(stream=True, max_tokens=500)))
        received = len(await loop.sock_recv(raw, 1000))
        await site.until(lambda: upstream.running == 1, "the upstream to run")
        await asyncio.sleep(0.2)  # long enough for the buffers to fill; more time changes nothing
        assert upstream.running == 1, "the upstream is held back, not drained into memory"
        raw.close()
        await site.until(site.closed, "the close record")
        (closed,) = site.closed()
        assert closed.end == "client_gone"
        assert 0 < closed.usage.output < 200
        assert received > 0


async def test_a_reader_who_never_reads_on_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_SILENCE_S", 0.2)
    script = [Event("x" * 65536, Usage(10, 0, place)) for place in range(1, 501)]
    upstream = ScriptedUpstream(script)
    async with Site(tmp_path, upstream).open() as site:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", site.port))
            await loop.sock_sendall(raw, request(chat(stream=True, max_tokens=500)))
            await site.until(site.closed, "the close record")
        (closed,) = site.closed()
        assert closed.end == "client_gone" and closed.usage.output < 200
        assert upstream.running == 0


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", request(chat())[:-5]], ids=["nothing", "half a head", "half"])
async def test_a_request_that_stops_arriving_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(limits, "CLIENT_SILENCE_S", 0.1)
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        monkeypatch.undo()
        assert status_of(await site.ask(request(chat()))) == 200
        assert len(site.closed()) == 1


async def test_a_slow_answer_and_a_quiet_connection_are_not_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(ScriptedUpstream):
        async def stream(self, *arguments):  # type: ignore[no-untyped-def]
            monkeypatch.setattr(limits, "CLIENT_SILENCE_S", 0.1)  # now that the request is there
            await asyncio.sleep(0.5)
            async for event in super().stream(*arguments):
                yield event

    async with Site(tmp_path, Slow(words("x"))).open() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for _ in range(2):
            writer.write(request(chat(), last=False))
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            await asyncio.sleep(0.3)
        writer.close()
        assert [closed.end for closed in site.closed()] == ["complete", "complete"]


async def test_an_upstream_failure_is_a_clear_error_without_its_words(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream([UpstreamError("fake", "stack at /secret")])).open() as site:
        answer = await site.ask(request(chat()))
        assert status_of(answer) == 502
        assert b"secret" not in answer
        assert site.closed()[0].usage.total == 0


async def test_a_bug_is_a_500_with_a_request_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Site(tmp_path, ScriptedUpstream([RuntimeError("boom")])).open() as site:
        answer = await site.ask(request(chat()))
        assert status_of(answer) == 500
        assert b"boom" not in answer
        assert body_of(answer)["error"]["code"] == "internal_error"
        assert len(site.closed()) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_strict_the_end_does_not_arrive_before_it_is_on_the_medium(tmp_path: Path, stream: bool) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo")), strict=True).open() as site:
        site.disk.may_sync.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        asked = chat(stream=True, stream_options={"include_usage": True}) if stream else chat()
        writer.write(request(asked))
        before = b""
        async with asyncio.timeout(10):
            while b'"stop"' not in before:
                before += await reader.read(65536)
        await site.until(lambda: site.teller.closings, "the close")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(65536), 0.05)
        if stream:
            assert b"[DONE]" not in before and b"completion_tokens" not in before
        else:
            body = before.split(b"\r\n\r\n", 1)[1]
            assert int(before.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body) + 1
            with pytest.raises(ValueError):
                json.loads(body)
        site.disk.may_sync.set()
        answer = before + await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") if stream else body_of(answer)
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output) == ("complete", 2)


@pytest.mark.parametrize("stream", [True, False])
async def test_strict_a_failing_disk_breaks_the_connection_off(tmp_path: Path, stream: bool) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo")), strict=True).open() as site:
        site.disk.sync_fails = True
        answer = await site.ask(request(chat(stream=stream)))
        assert status_of(answer) == 200
        if stream:
            assert b"[DONE]" not in answer and not answer.endswith(b"0\r\n\r\n"), "visibly not the end"
        else:
            body = answer.split(b"\r\n\r\n", 1)[1]
            assert int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > len(body)
        again = await site.ask(request(chat()))
        assert status_of(again) == 503 and body_of(again)["error"]["code"] == "journal_failed"


async def test_the_header_of_a_lowered_cap_and_its_end(tmp_path: Path) -> None:
    """The wallet covers seven tokens; the upstream would say forty."""
    async with Site(tmp_path, ScriptedUpstream(words(*map(str, range(40))))).open() as site:
        site.teller.purse_nano = 20
        asked = request(chat(stream=True))
        refused = await site.ask(asked)
        assert status_of(refused) == 402
        want, floor = site.teller.asked[-1]
        per_token = (want - floor) // 19
        site.teller.purse_nano = floor + 6 * per_token
        answer = await site.ask(asked)
        assert b"\r\nx-steelyard-max-tokens-lowered: 7\r\n" in answer
        assert answer.count(b'"content":"') - answer.count(b'"role"') == 7
        assert answer.count(b'"finish_reason":"length"') == 1
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output) == ("money_ended", 7)


async def test_a_client_that_resets_the_connection_is_charged_what_had_left(tmp_path: Path) -> None:
    """RST instead of a goodbye, and bytes of the answer unread."""
    gate = asyncio.Event()

    class Gated(ScriptedUpstream):
        async def stream(self, *arguments):  # type: ignore[no-untyped-def]
            async for event in super().stream(*arguments):
                if event.text == "c":
                    await gate.wait()
                yield event

    upstream = Gated(words("a", "b", "c"))
    async with Site(tmp_path, upstream).open() as site:
        raw = socket.create_connection(("127.0.0.1", site.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(request(chat(stream=True)))
        await site.until(lambda: upstream.running == 1, "the upstream to run")
        loop = asyncio.get_running_loop()
        seen = b""
        raw.setblocking(False)
        async with asyncio.timeout(10):
            while b'"b"' not in seen:
                seen += await loop.sock_recv(raw, 65536)
        raw.close()
        await site.until(site.closed, "the close record")
        (closed,) = site.closed()
        assert (closed.end, closed.usage.output, closed.usage.prompt) == ("client_gone", 2, 10)
        assert upstream.running == 0


@pytest.mark.parametrize("base", ["/v1", "/v1/v1", ""])
async def test_models_come_in_the_shape_of_the_client_that_asks(tmp_path: Path, base: str) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("x"))).open() as site:

        async def get(path: str, *headers: str) -> dict:
            lines = [f"GET {base}{path} HTTP/1.1", "host: x", "connection: close", *headers]
            return body_of(await site.ask("\r\n".join(lines).encode() + b"\r\n\r\n"))

        anthropic = ("anthropic-version: 2026-10-21", f"x-api-key: {KEY}")
        assert (await get("/models", f"authorization: Bearer {KEY}"))["object"] == "list"
        assert (await get("/models", *anthropic))["data"][0]["type"] == "model"
        assert (await get("/models/m", *anthropic))["lifecycle"] == "active"
        assert (await get("/models/m", f"authorization: Bearer {KEY}"))["owned_by"] == "steelyard"


async def test_an_answer_says_when_it_began_and_what_it_costs(tmp_path: Path) -> None:
    async with Site(tmp_path, ScriptedUpstream(words("Hel", "lo"))).open() as site:
        answer = await site.ask(request(chat()))
        usage = body_of(answer)["usage"]
        assert usage["steelyard"]["currency"] == "CNY"
        assert f"x-steelyard-charge: {usage['steelyard']['charge']}\r\n".encode() in answer
        assert b"\r\nopenai-processing-ms: " in answer
        assert b"x-steelyard-charge" not in await site.ask(request(chat(stream=True)))


async def test_the_document_has_every_endpoint_that_sells(tmp_path: Path) -> None:
    """It needs no key: a program that is made from it has none yet."""
    site = Site(tmp_path, ScriptedUpstream(words("Hi")))
    sold = PublicApp(site.house, FakeOffice(), Ids(site.clock)).hot
    places = {path.removeprefix("/v1").removeprefix("/v1") for path in sold}
    async with site.open():
        document = body_of(await site.ask(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    described = {path.removeprefix("/v1") for path, one in document["paths"].items() if "post" in one}
    unsold = {"/batches", "/batches/{batch_id}/cancel"}  # its lines are sold, each as a request of its own
    assert described == places | unsold and "/chat/completions" in described
