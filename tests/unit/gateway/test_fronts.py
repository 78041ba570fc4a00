"""The contract of the public port, for both fronts: the fast one and the ASGI one, over real sockets on uvloop.

One server of each for the whole module, in a thread of its own; the tests are plain sockets. What the upstream does is
what the prompt says. `make test-uvicorn` runs this file against the oldest and the newest uvicorn allowed.
"""

import asyncio
import gc
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs
from tests.fakes.parties import KEY, ScriptedUpstream
from tests.unit.gateway.test_public import Site
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from steelyard.gateway.exact import ExactProtocol
from steelyard.gateway.exchange import Exchange
from steelyard.gateway.fast import FastProtocol, FastWire
from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.settled import Closed, Position
from steelyard.metering.meter import Reading
from steelyard.metering.reader import read

FRONTS = ("fast", "asgi")
CHAT = "/v1/chat/completions"


class Stage(ScriptedUpstream):
    """Plays what the prompt says: `say N`, `wait` (one word, then the gate, then another), `flood`, `fail`, `bug`."""

    def __init__(self) -> None:
        super().__init__([])
        self.gate = threading.Event()
        self.said = 0

    async def stream(self, offer, params, max_tokens, request_id, whole=False):  # type: ignore[no-untyped-def]
        what, _, number = json.loads(bytes(params["messages"]))[-1]["content"].partition(" ")
        self.running += 1
        try:
            if what == "fail":
                raise UpstreamError("fake", "is broken")
            if what == "bug":
                raise RuntimeError("a bug")
            words = int(number or 2)
            for place in range(1, words + 1):
                if place == 2 and what == "wait":
                    while not self.gate.is_set():
                        await asyncio.sleep(0.002)
                text = "x" * 65536 if what == "flood" else f"w{place} "
                self.said += len(text)
                yield Event(text, Usage(10, 0, place))
            yield Event("", Usage(10, 0, words), "stop")
        finally:
            self.running -= 1


class Served:
    """A site and its server, in a thread."""

    def __init__(self, folder: Path, front: str, drain_s: int = 2) -> None:
        self.front = front
        self.stage = Stage()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder, drain_s))
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self, folder: Path, drain_s: int) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(folder, drain_s))

    async def _serve(self, folder: Path, drain_s: int) -> None:
        self.site = Site(folder, self.stage)
        self.site.front, self.site.drain_s = self.front, drain_s
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.site.open():
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    @contextmanager
    def connected(self, buffer: int = 0) -> Iterator["Client"]:
        with socket.socket() as raw:
            if buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            raw.settimeout(20)
            raw.connect(("127.0.0.1", self.site.port))
            yield Client(raw)

    def ends(self) -> list[str]:
        """How the requests ended, in the order they did."""
        records = read(self.site.folder, Position(), until=None, max_records=10_000).records
        return [record.end for record in records if isinstance(record, Closed)]


class Client:
    """One raw connection."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.read = b""

    def send(self, *pieces: bytes) -> "Client":
        for piece in pieces:
            self.raw.sendall(piece)
        return self

    def until(self, mark: bytes) -> bytes:
        """What comes up to and with the mark."""
        while mark not in self.read:
            piece = self.raw.recv(1 << 18)
            assert piece, (mark, self.read)
            self.read += piece
        found, _, self.read = self.read.partition(mark)
        return found + mark

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next whole answer, unframed."""
        head = self.until(b"\r\n\r\n").decode()
        first, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        status = int(first.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
        elif "content-length" in headers:
            body = self.exactly(int(headers["content-length"]))
        else:
            body = self.rest() if status != 100 else b""
        return status, headers, body

    def exactly(self, size: int) -> bytes:
        while len(self.read) < size:
            piece = self.raw.recv(1 << 18)
            assert piece, self.read
            self.read += piece
        found, self.read = self.read[:size], self.read[size:]
        return found

    def rest(self) -> bytes:
        """All that comes until the other side closes."""
        try:
            while piece := self.raw.recv(1 << 18):
                self.read += piece
        except ConnectionResetError:
            pass
        found, self.read = self.read, b""
        return found


def wait_for(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.005)


def body_for(say: str, **fields: Any) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": say}], "max_tokens": 400, **fields}
    ).encode()


def head_for(*lines: str, path: str = CHAT, version: str = "1.1", key: str = KEY) -> bytes:
    return "\r\n".join(
        (f"POST {path} HTTP/{version}", "host: x", f"authorization: Bearer {key}", *lines, "", "")
    ).encode()


def post(say: str, *lines: str, path: str = CHAT, version: str = "1.1", key: str = KEY, **fields: Any) -> bytes:
    body = body_for(say, **fields)
    return head_for(*lines, f"content-length: {len(body)}", path=path, version=version, key=key) + body


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    made = {front: Served(tmp_path_factory.mktemp(front), front) for front in FRONTS}
    yield made
    for served in made.values():
        served.stop()
    for served in made.values():
        served.join()


@pytest.fixture(params=FRONTS)
def served(both: dict[str, Served], request: pytest.FixtureRequest) -> Iterator[Served]:
    served = both[request.param]
    served.stage.gate.clear()
    yield served
    served.stage.gate.set()
    wait_for(lambda: not served.site.meter.in_flight, "every request to be settled")
    assert served.stage.running == 0


def test_each_server_has_the_front_it_was_asked_for(both: dict[str, Served]) -> None:
    for front, served in both.items():
        with served.connected() as client:
            assert client.send(post("say")).answer()[0] == 200
            (protocol,) = served.site.server.server_state.connections
            assert isinstance(protocol, ExactProtocol)
            assert isinstance(protocol, FastProtocol) is (front == "fast")
            assert isinstance(protocol.cycle, FastWire) is (front == "fast")


def test_a_length_is_read_however_many_noughts_stand_before_it(served: Served) -> None:
    noughts, body = "0" * 5000, body_for("say")
    with served.connected() as client:
        assert client.send(head_for(f"content-length: {noughts}{len(body)}") + body).answer()[0] == 200
        assert client.send(head_for(f"content-length: {noughts}{len(body)}"), body).answer()[0] == 200
        assert client.send(head_for(f"content-length: {noughts}99999999")).answer()[0] == 413
    assert served.site.server.config.loaded_app.admission.load.body_bytes == 0


def test_bodies_and_streams_on_one_connection(served: Served) -> None:
    with served.connected() as client:
        for turn in range(3):
            status, headers, body = client.send(post(f"say {turn + 1}", "accept: */*")).answer()
            assert status == 200 and headers["content-type"] == "application/json"
            assert json.loads(body)["choices"][0]["message"]["content"] == "".join(f"w{n} " for n in range(1, turn + 2))
            status, headers, body = client.send(post("say 2", "accept: */*", stream=True)).answer()
            assert headers["transfer-encoding"] == "chunked" and body.endswith(b"data: [DONE]\n\n")
        assert client.send(HEALTH).answer()[0] == 200
        assert client.send(post("say")).answer()[0] == 200


class Watched:
    """A transport whose writes are kept."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(bytes(data))
        self._transport.write(data)


@pytest.mark.parametrize(("path", "last"), [(CHAT, b"data: [DONE]"), ("/v1/messages", b'"type":"message_stop"')])
def test_a_stream_ends_in_the_write_of_its_last_data(
    both: dict[str, Served], monkeypatch: pytest.MonkeyPatch, path: str, last: bytes
) -> None:
    """At the fast front: to wake its reader once more for the five bytes behind it would cost as much as the write."""
    writes: list[bytes] = []
    made = FastProtocol.connection_made
    monkeypatch.setattr(FastProtocol, "connection_made", lambda self, found: made(self, Watched(found, writes)))
    with both["fast"].connected() as client:
        for _ in range(2):
            assert client.send(post("say", path=path, stream=True)).answer()[0] == 200
            assert last in writes[-1] and writes[-1].endswith(b"\n\n\r\n0\r\n\r\n")
            writes.clear()


SAME = {
    "an answer": post("say"),
    "a stream": post("say", stream=True),
    "the last answer": post("say", "connection: close"),
    "no key": post("say", key="x"),
    "no model": post("say", model="other"),
    "no JSON": head_for("content-length: 1") + b"{",
    "no body": head_for(),
    "a failing upstream": post("fail"),
    "a failing upstream of a stream": post("fail", stream=True),
    "a bug": post("bug"),
    "in another dialect": post("say", path="/v1/messages"),
    "a failure in another dialect": post("fail", path="/v1/messages?beta=true"),
    "counted": post("say", path="/v1/messages/count_tokens"),
    "unknown fields": post("say", flavour=1),
    "too large": head_for("content-length: 99999999"),
    "too large and no key": head_for("content-length: 99999999", key="x"),
    "HTTP/1.0": post("say", version="1.0"),
    "nobody's place": post("say", path="/v1/nobody"),
    "a percent sign": post("say", path="/v1/chat%2Fcompletions"),
    "a page that asks": post("say", "origin: https://x.example"),
    "two lengths": head_for("content-length: 1", "content-length: 1") + b"{",
    "both lengths": head_for("content-length: 1", "transfer-encoding: chunked") + b"1\r\n{\r\n0\r\n\r\n",
    "an unknown coding": head_for("transfer-encoding: gzip") + b"{",
    "a broken chunk": head_for("transfer-encoding: chunked") + b"zz\r\n{\r\n0\r\n\r\n",
    "a signed length": head_for("content-length: +1") + b"{",
    "a folded line": head_for("x: a\r\n b", "content-length: 1") + b"{",
    "line feeds": head_for("content-length: 1").replace(b"\r\n", b"\n") + b"{",
    "no HTTP": b"hello\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "large headers": head_for("x: " + "y" * 70_000, "content-length: 0"),
    "many headers": head_for(*(f"x{n}: {n}" for n in range(6000)), "content-length: 0"),
}
REFUSED = {
    "two lengths": 400,
    "both lengths": 400,
    "an unknown coding": 400,
    "a broken chunk": 400,
    "a folded line": 400,
}
REFUSED |= {"a signed length": 400, "line feeds": 400, "no HTTP": 400, "a tunnel": 400, "too large": 413}
REFUSED |= {"large headers": 431, "many headers": 431, "no key": 401, "too large and no key": 401, "a bug": 500}
OF_THE_MOMENT = re.compile(
    rb"req_[0-9a-f]{32}|(chatcmpl-|msg_)[0-9a-f]+|date: [^\r]*|\"created\":\d+|processing-ms: \d+"
)


@pytest.mark.parametrize("what", SAME)
def test_both_fronts_give_the_same_bytes(both: dict[str, Served], what: str) -> None:
    told = {}
    for front, served in both.items():
        with capture_logs(), served.connected() as client:
            client.send(SAME[what])
            status, headers, _ = Client.answer(kept := Kept(client))
            told[front] = OF_THE_MOMENT.sub(b"", kept.seen)
            if "HTTP/1.0" in what:  # older versions of uvicorn leave it to the client to know that it closes
                told[front] = told[front].replace(b"connection: close\r\n", b"")
            assert status == REFUSED.get(what, status)
            closes = headers.get("connection") == "close"
            if closes:
                assert client.rest() == b""
            elif what not in {"too large", "too large and no key", "HTTP/1.0"}:
                assert client.send(HEALTH).answer()[0] == 200
    assert told["fast"] == told["asgi"]


def test_a_large_head_is_refused_however_it_comes(served: Served) -> None:
    head, begun = SAME["many headers"], 20_000
    with capture_logs(), served.connected() as client:
        client.send(head[:begun])
        wait_for(
            lambda: any(one._last_bytes for one in list(served.site.server.server_state.connections)), "it is read"
        )
        assert client.send(head[begun:]).answer()[0] == 431


class Kept(Client):
    """A client that remembers what it took."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.raw)
        self.seen = b""

    def until(self, mark: bytes) -> bytes:
        found = super().until(mark)
        self.seen += found
        return found

    def exactly(self, size: int) -> bytes:
        found = super().exactly(size)
        self.seen += found
        return found


def test_requests_in_one_read_are_answered_in_their_order(served: Served) -> None:
    asked = [post("say 1"), HEALTH, post("say 2", stream=True), post("say", model="other"), HEALTH, post("say 3")]
    with served.connected() as client:
        client.send(b"".join(asked) * 3)
        for _ in range(3):
            answers = [client.answer() for _ in asked]
            assert [status for status, _, _ in answers] == [200, 200, 200, 404, 200, 200]
            assert b"w1 w2 w3" in answers[5][2] and b"[DONE]" in answers[2][2] and b"ok" in answers[1][2]


@pytest.mark.parametrize("behind", [HEALTH, post("say 1"), post("say", key="x")], ids=["ordinary", "hot", "refused"])
def test_what_comes_during_an_answer_waits(served: Served, behind: bytes) -> None:
    with served.connected() as client:
        client.send(post("wait", stream=True)).until(b"w1 ")
        client.send(behind[:-7])
        client.send(behind[-7:], HEALTH)
        served.stage.gate.set()
        stream = client.until(b"0\r\n\r\n")
        assert b"w2 " in stream and b"HTTP/1.1" not in stream
        assert client.answer()[0] == (401 if b"Bearer x" in behind else 200)
        assert client.answer()[0] == 200


def test_too_many_that_wait_are_refused_in_their_turn(served: Served) -> None:
    with served.connected() as client:
        client.send(HEALTH).answer()
        client.send(post("wait"), b"".join([HEALTH, post("say 1")] * limits.PIPELINED_MAX))
        (protocol,) = served.site.server.server_state.connections
        wait_for(lambda: len(protocol.pipeline) > limits.PIPELINED_MAX, "all to wait")
        served.stage.gate.set()
        statuses = [client.answer()[0] for _ in range(limits.PIPELINED_MAX + 2)]
        assert statuses == [200] * (limits.PIPELINED_MAX + 1) + [429]
        assert client.rest() == b""


def test_nonsense_behind_a_request_does_not_harm_its_answer(served: Served) -> None:
    for nonsense in (b"nonsense\r\n\r\n", head_for("transfer-encoding: chunked") + b"zz\r\n"):
        served.stage.gate.clear()
        with served.connected() as client:
            client.send(post("wait", stream=True)).until(b"w1 ")
            client.send(nonsense)
            served.stage.gate.set()
            assert client.until(b"0\r\n\r\n").count(b"HTTP/1.1") == 0
            assert client.answer()[0] == 400
            assert client.rest() == b""


def test_a_client_that_asks_whether_to_go_on_is_told(served: Served) -> None:
    body = body_for("say 1")
    lines = ("expect: 100-continue", f"content-length: {len(body)}")
    with served.connected() as client:
        for _ in range(2):
            assert client.send(head_for(*lines)).answer()[0] == 100
            status, _, answer = client.send(body).answer()
            assert status == 200 and b"w1" in answer
    with served.connected() as client:
        assert client.send(head_for(*lines, key="x")).answer()[0] == 401  # instead of 100


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_body_in_chunks_and_in_pieces(served: Served, size: int) -> None:
    body = body_for("say 1", metadata={"x": "y" * (200_000 if size > 7 else 10)})
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    with served.connected() as client:
        client.send(head_for("transfer-encoding: chunked"))
        client.send(*(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
        assert client.send(b"0\r\nauthorization: Bearer x\r\n\r\n").answer()[0] == 200
        client.send(head_for(f"content-length: {len(body)}"), *pieces)
        assert client.answer()[0] == 200


def test_a_trailer_without_end_is_cut_off(served: Served) -> None:
    with served.connected() as client:
        client.send(head_for("transfer-encoding: chunked"), b"1\r\n{\r\n0\r\nx: ")
        with pytest.raises(OSError):
            while True:
                client.send(b"y" * 65536)


def test_an_answer_to_head_has_no_body(served: Served) -> None:
    with served.connected() as client:
        for path, status in ((CHAT, 404), ("/healthz", 200)):
            client.send(f"HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert f" {status} ".encode() in client.until(b"\r\n\r\n")
        assert client.send(post("say")).answer()[0] == 200


def test_http_1_0_is_answered_and_closed(served: Served) -> None:
    with served.connected() as client:
        status, headers, body = client.send(post("say 1", "connection: keep-alive", version="1.0")).answer()
        assert status == 200 and headers.get("connection", "close") == "close" and b"w1" in body
        assert client.rest() == b""
    with served.connected() as client:
        answer = client.send(post("say 1", version="1.0", stream=True)).rest()
        assert b"data: [DONE]" in answer
        # uvicorn frames the answers it writes itself as for HTTP/1.1
        assert answer.endswith(b"data: [DONE]\n\n" if served.front == "fast" else b"0\r\n\r\n")


def test_an_offer_to_change_the_protocol_is_declined(served: Served) -> None:
    """Java's client makes it with its first request; the parser by itself would take the body for something else."""
    lines = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    with served.connected() as client:
        for _ in range(2):
            status, _, body = client.send(post("say 1", *lines)).answer()
            assert status == 200 and b"w1" in body
        body = body_for("say 2")
        request = head_for(*lines, f"content-length: {len(body)}") + body
        client.send(request[:90])
        client.send(request[90:-20])
        client.send(request[-20:])
        assert client.answer()[0] == 200


def test_a_client_that_goes_ends_the_call_and_is_charged_what_it_had(served: Served) -> None:
    before = len(served.ends())
    with served.connected() as client:
        client.send(post("wait", stream=True)).until(b"w1 ")
    wait_for(lambda: len(served.ends()) > before, "the close record")
    closed = served.site.closed()[-1]
    assert (closed.end, closed.usage.output) == ("client_gone", 1)


def _have_ended(served: Served, count: int) -> bool:
    return len(served.ends()) >= count


def connections_and_their_own() -> Counter[str]:
    """How many there are of what a connection and its exchanges are made of."""
    kinds = (ExactProtocol, FastWire, Exchange, Reading, RequestResponseCycle)
    return Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), kinds))


@pytest.mark.parametrize("say", ["say 3", "bug", "wait"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_a_connection_was_made_of_is_freed_without_the_collector(served: Served, say: str, stream: bool) -> None:
    """A worker has it look so seldom that what knows itself would fill its memory. `wait`: the client hangs up."""
    gc.collect()
    gc.disable()
    try:
        before = connections_and_their_own()
        for _ in range(3):
            ended = len(served.ends()) + 1
            with served.connected() as client, capture_logs():
                client.send(post(say, stream=stream))
                if say != "wait":
                    client.answer()
                elif stream:
                    client.until(b"w1 ")
                else:
                    wait_for(lambda: served.stage.running, "the call")
            wait_for(partial(_have_ended, served, ended), "the close record")
        wait_for(lambda: connections_and_their_own() <= before, "all of it to be freed")
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [True, False])
def test_a_half_closed_connection_counts_as_gone(served: Served, stream: bool) -> None:
    before = len(served.ends())
    with served.connected() as client:
        client.send(post("wait", stream=stream))
        wait_for(lambda: served.stage.running, "the call")
        client.raw.shutdown(socket.SHUT_WR)
        wait_for(lambda: len(served.ends()) > before, "the close record")
        assert served.ends()[-1] == "client_gone"
        client.rest()


def test_one_who_leaves_before_his_request_is_whole_opens_nothing(served: Served) -> None:
    wait_for(lambda: not served.site.meter.in_flight, "all others")
    before = len(served.ends())
    for part in (post("say")[:-3], post("say")[:30], head_for("expect: 100-continue", "content-length: 9")):
        with served.connected() as client:
            client.send(part)
    with served.connected() as client:
        assert client.send(post("say")).answer()[0] == 200
    wait_for(lambda: len(served.ends()) == before + 1, "the only close record")


def test_a_reader_who_stops_holds_the_upstream_back(served: Served) -> None:
    with served.connected(buffer=65536) as client:
        client.send(post("flood 150", stream=True))
        client.until(b"data: ")
        said = -1
        while said != served.stage.said:  # until no buffer takes more
            said = served.stage.said
            time.sleep(0.1)
        assert said < 130 * 65536
        assert client.until(b"[DONE]")
    wait_for(lambda: served.ends()[-1] == "complete", "the rest")


def test_a_sender_who_does_not_stop_is_held_back(served: Served) -> None:
    with served.connected() as client:
        client.send(post("wait", stream=True)).until(b"w1 ")
        client.send(HEALTH)
        client.raw.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += client.raw.send(HEALTH * 10_000)
    assert sent < 32 << 20


def test_the_silent_are_hung_up_on_and_the_slow_are_not(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with served.connected() as idle, served.connected() as slow, served.connected() as dripping:
        idle.send(post("say")).answer()
        slow.send(post("wait")).send()
        wait_for(lambda: served.stage.running, "the call")
        dripping.send(b"POST ")
        monkeypatch.setattr(limits, "CLIENT_HEAD_S", 0.5)
        monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.3)
        assert idle.rest() == b""
        with pytest.raises(OSError):
            while True:  # it moves, but never comes to an end
                dripping.send(b"x")
                time.sleep(0.02)
        served.stage.gate.set()
        assert slow.answer()[0] == 200
        assert slow.rest() == b""


@pytest.mark.parametrize("front", FRONTS)
def test_what_runs_is_drained_and_what_does_not_end_is_cut(tmp_path: Path, front: str) -> None:
    served = Served(tmp_path, front, drain_s=1)
    with (
        served.connected() as idle,
        served.connected() as whole,
        served.connected() as cut,
        served.connected() as silent,
    ):
        idle.send(post("say 1")).answer()
        whole.send(post("wait", stream=True)).until(b"w1 ")
        served.stop()
        assert idle.rest() == b""
        with pytest.raises(OSError), served.connected() as late:
            late.send(HEALTH)
            assert late.rest() == b""
            raise ConnectionRefusedError
        served.stage.gate.set()
        assert whole.until(b"0\r\n\r\n") and whole.rest() == b""
        served.join()
        assert cut.rest() == silent.rest() == b""
    assert served.ends() == ["complete", "complete"]


@pytest.mark.parametrize("front", FRONTS)
def test_what_does_not_end_in_time_is_cut_and_settled(tmp_path: Path, front: str) -> None:
    served = Served(tmp_path, front, drain_s=0)
    with served.connected() as cut, served.connected() as unbegun:
        cut.send(post("wait", stream=True)).until(b"w1 ")
        unbegun.send(post("wait"))
        wait_for(lambda: served.stage.running == 2, "both calls")
        served.stop()
        assert not cut.rest().endswith(b"0\r\n\r\n")
        assert unbegun.answer()[0] == 503
        assert unbegun.rest() == b""
        served.join()
    assert sorted(served.ends()) == ["drained", "drained"]
    assert served.site.meter.in_flight == 0
