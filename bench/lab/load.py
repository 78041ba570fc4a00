"""`python -m bench.lab.load JSON`: connections with one request at a time each; what came back, as one line of JSON.

Plain sockets and epoll, so that it costs less than whatever it measures. Every answer is looked at: status 200, a whole
body, and its counts or its [DONE]; anything else is a failure and is counted as one. Says `begin` when the warm-up is
over and its figures start.
"""

import argparse
import json
import select
import socket
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.lab.mock import PACED

_READ_BYTES = 65_536
_TAIL_BYTES = 80
_SILENCE_S = 30
_BEGIN_S = 8  # until every held stream has begun; who is overloaded is measured as he is
_AT_REST = -2  # bytes left of a connection that asks nothing any more
_SAMPLES_MAX = 2_000_000
SMALL = "Say a short greeting to a friend who has just come home from a long journey, please."


@dataclass(frozen=True, slots=True)
class Load:
    """What to ask, of whom, how long. `pace_ms`: hold streams with an event in that interval."""

    host: str
    port: int
    connections: int
    seconds: float
    warm_s: float = 1.0
    path: str = "/v1/chat/completions"
    key: str = "none"
    model: str = "mock"
    stream: bool = False
    pace_ms: int = 0
    pieces: int = 250
    prompt_bytes: int = 0
    ids: str = ""
    """A file for the request ids of all whole answers, those of the warm-up too; then the last ones are waited for."""

    def request(self) -> bytes:
        """Head and body."""
        prompt = SMALL
        if self.pace_ms:
            prompt = PACED.format(pace_ms=self.pace_ms, pieces=self.pieces) + ". " + SMALL
        if self.prompt_bytes:
            prompt = (prompt + " " + "The steelyard weighs what it is given. " * (self.prompt_bytes // 38 + 1))[
                : self.prompt_bytes
            ]
        body: dict[str, object] = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        body["max_tokens"] = self.pieces + 1 if self.pace_ms else 100
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        text = json.dumps(body, separators=(",", ":")).encode()
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: Bearer {self.key}",
            "Content-Type: application/json",
            "Accept: */*",
            f"Content-Length: {len(text)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


@dataclass(slots=True)
class Tally:
    """What was seen since it was last cleared."""

    requests: int = 0
    failures: int = 0
    connects: int = 0
    bytes: int = 0
    events: int = 0
    reads: int = 0
    over: bool = False  # nobody asks any more
    first_failure: str = ""
    took_us: array = field(default_factory=lambda: array("I"))  # type: ignore[type-arg]
    gaps_us: array = field(default_factory=lambda: array("I"))  # type: ignore[type-arg]


class Client:
    """One connection."""

    __slots__ = (
        *("asked_ns", "chunked", "epoll", "id", "ids", "last_ns", "left", "load", "request", "socket", "tail", "tally"),
    )

    def __init__(self, load: Load, request: bytes, epoll: select.epoll, tally: Tally, ids: list[bytes] | None) -> None:
        self.load = load
        self.request = request
        self.epoll = epoll
        self.tally = tally
        self.ids, self.id = ids, b""
        self.left = -1  # bytes of the body that are to come; -1: the head is not here yet
        self.chunked = False
        self.tail = b""
        self.asked_ns = self.last_ns = 0
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        self.tally.connects += 1
        made = socket.create_connection((self.load.host, self.load.port), timeout=_SILENCE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(None)  # with one each call would poll first
        self.epoll.register(made.fileno(), select.EPOLLIN)
        return made

    def ask(self) -> None:
        self.left = -1
        self.tail = b""
        self.asked_ns = self.last_ns = time.perf_counter_ns()
        self.socket.sendall(self.request)

    def read(self) -> None:
        """Take what is there; when the answer is whole, ask again."""
        data = self.socket.recv(_READ_BYTES)
        tally = self.tally
        if not data:
            self._over("the connection was closed")
            return
        tally.bytes += len(data)
        tally.reads += 1
        if self.load.stream:
            tally.events += data.count(b"data: {")
            if self.load.pace_ms:
                now_ns = time.perf_counter_ns()
                if len(tally.gaps_us) < _SAMPLES_MAX:
                    tally.gaps_us.append((now_ns - self.last_ns) // 1000)
                self.last_ns = now_ns
        if self.left < 0:
            data = self.tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.tail = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                self._over(data[:600].decode(errors="replace"))
                return
            head = data[:end].lower()
            if self.ids is not None:
                place = head.find(b"x-request-id: ")
                self.id = head[place + 14 :].split(b"\r\n", 1)[0]
            place = head.find(b"\r\ncontent-length:")
            self.chunked = place < 0
            self.left = 0 if self.chunked else int(head[place + 17 :].split(b"\r\n", 1)[0])
            self.tail = b""
            data = data[end + 4 :]
        tail = self.tail = self.tail[-_TAIL_BYTES:] + data[-_TAIL_BYTES:]
        if self.chunked:
            if not tail.endswith(b"0\r\n\r\n"):
                return
        else:
            self.left -= len(data)
            if self.left > 0:
                return
        if (b"[DONE]" if self.load.stream else b"}") in tail[-_TAIL_BYTES:]:
            tally.requests += 1
            if len(tally.took_us) < _SAMPLES_MAX:
                tally.took_us.append((time.perf_counter_ns() - self.asked_ns) // 1000)
            if self.ids is not None:
                self.ids.append(self.id)
            if not tally.over:
                self.ask()
            else:
                self.left = _AT_REST
        else:
            self._over("an answer without its end: " + tail[-200:].decode(errors="replace"))

    def _over(self, why: str) -> None:
        self.tally.failures += 1
        self.tally.first_failure = self.tally.first_failure or why
        self.epoll.unregister(self.socket.fileno())
        clients = _CLIENTS
        del clients[self.socket.fileno()]
        self.socket.close()
        time.sleep(0.01)  # whoever refuses is not hammered
        self.socket = self._connect()
        clients[self.socket.fileno()] = self
        self.ask()


_CLIENTS: dict[int, Client] = {}


def run(load: Load) -> None:
    """Warm up, say `begin`, measure, say what was seen. Raises OSError when nobody listens."""
    epoll = select.epoll()
    tally = Tally()
    ids: list[bytes] | None = [] if load.ids else None
    request = load.request()
    clients = _CLIENTS
    spread_s = load.pace_ms / 1000 / load.connections
    for _ in range(load.connections):
        client = Client(load, request, epoll, tally, ids)
        clients[client.socket.fileno()] = client
        client.ask()
        if spread_s:
            _serve(epoll, time.perf_counter() + spread_s * 4)  # streams begin evenly, over four of their intervals
    patience = time.perf_counter() + _BEGIN_S
    while load.pace_ms and any(client.left == -1 for client in clients.values()) and time.perf_counter() < patience:
        _serve(epoll, time.perf_counter() + 0.05)  # until every stream has begun
    _serve(epoll, time.perf_counter() + load.warm_s)
    fresh = Tally(failures=tally.failures, first_failure=tally.first_failure)  # those count wherever they were
    for client in clients.values():
        client.tally = fresh
    print("begin", flush=True)
    started, cpu_s = time.perf_counter(), time.process_time()
    _serve(epoll, started + load.seconds)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    found = told(fresh, seconds, cpu_s)
    print(json.dumps(found), flush=True)
    if ids is not None:
        fresh.over = True
        patience = time.perf_counter() + _SILENCE_S
        while any(client.left != _AT_REST for client in clients.values()) and time.perf_counter() < patience:
            _serve(epoll, time.perf_counter() + 0.01)
        Path(load.ids).write_bytes(b"\n".join(ids))


def _serve(epoll: select.epoll, until: float) -> None:
    clients = _CLIENTS
    heard = time.perf_counter()
    while (now := time.perf_counter()) < until:
        ready = epoll.poll(min(until - now, 1.0), 1024)
        if ready:
            heard = now
        elif now - heard > _SILENCE_S:
            raise SystemExit(f"Nothing came for {_SILENCE_S} s.")
        for number, _ in ready:
            client = clients.get(number)
            if client is not None:
                try:
                    client.read()
                except ConnectionError as error:
                    client._over(str(error))


def told(tally: Tally, seconds: float, cpu_s: float) -> dict[str, object]:
    took, gaps = sorted(tally.took_us), sorted(tally.gaps_us)
    return {
        "requests": tally.requests,
        "failures": tally.failures,
        "connects": tally.connects,
        "seconds": seconds,
        "bytes": tally.bytes,
        "events": tally.events,
        "reads": tally.reads,
        "first_failure": tally.first_failure,
        "p50_us": at(took, 50),
        "p99_us": at(took, 99),
        "gap_p50_us": at(gaps, 50),
        "gap_p99_us": at(gaps, 99),
        "gap_max_us": gaps[-1] if gaps else 0,
        "load_cpu_s": cpu_s,
    }


def at(ordered: Sequence[int], percent: int) -> int:
    """A percentile of figures in order; 0 of none."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0


def main() -> int:
    given = json.loads(sys.argv[1]) if len(sys.argv) == 2 else argparse.ArgumentParser(description=__doc__).parse_args()
    run(Load(**given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
