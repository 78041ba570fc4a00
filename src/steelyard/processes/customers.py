"""Customers for a proof: they ask, read whatever arrives to the very end, and remember it.

Owns what arrived: counts of tokens and words by the customer's own reading, never by what he was told. Knows no books.
A connection that is refused or dies before its first byte, and a 5xx, are asked again: a restart may take a moment.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from steelyard.kernel import limits
from steelyard.processes import scripted

_READ_BYTES = 64 * 1024
_END = b"data: [DONE]"


class Dice(Protocol):
    """Seeded randomness, handed in."""

    def random(self) -> float: ...
    def randrange(self, start: int, stop: int) -> int: ...
    def choice(self, of: Sequence[str]) -> str: ...


@dataclass(frozen=True, slots=True)
class Wallet:
    """A tenant with a key. `solvent`: no request of a proof can be too dear for it."""

    tenant: str
    key: str
    solvent: bool


@dataclass(slots=True)
class Arrival:
    """What one customer got for one question. `tokens` is None where he cannot count them himself."""

    kind: str
    tenant: str
    solvent: bool
    status: int = 0  # 0: the connection gave nothing
    request_id: str = ""
    tokens: int | None = 0
    told: int | None = None  # output tokens by the answer's own usage
    whole: bool = False
    in_order: bool = True
    key: str = ""  # the Idempotency-Key it was asked under
    held: bool = False  # refused because other requests held the money
    final: bool = False  # asking again under this key gives nothing else


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `cut_after`: hang up after this many events, but go on reading. `key`: its Idempotency-Key."""

    kind: str
    wallet: Wallet
    body: bytes
    stream: bool
    scripted: bool
    cut_after: int = 0
    key: str = ""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def scripted_question(kind: str, wallet: Wallet, dice: Dice) -> Question:
    """A question to the scripted model, whose every token can be told from the others."""
    tokens, pace_ms = dice.randrange(4, 60), dice.randrange(2, 14)
    stream = kind != "plain" and (kind != "keyed" or dice.random() < 0.6)
    key = f"key-{dice.randrange(1, 1 << 60)}" if kind == "keyed" else ""
    prompt = scripted.PROMPT.format(tokens=tokens, pace_ms=pace_ms)
    if kind == "unruly":  # the upstream is: it goes on behind the cap, and tells its usage twice
        prompt += f" Go {scripted.PAST_THE_CAP}, tell {scripted.USAGE_TWICE}."
    body = {
        "model": scripted.MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": dice.randrange(4, 80),
        "stream": stream,
        "n": 2 if kind == "pair" else 1,
    }
    cut_after = dice.randrange(1, 30) if kind == "cut" else 0
    return Question(kind, wallet, msgspec.json.encode(body), stream, True, cut_after, key)


def engine_question(model: str, wallet: Wallet, dice: Dice) -> Question:
    """A question to the real engine, which tells its counts in its answer."""
    stream = dice.random() < 0.7
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me about the number {dice.randrange(1, 1000)}."}],
        "max_tokens": dice.randrange(4, 40),
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return Question("engine", wallet, msgspec.json.encode(body), stream, False)


async def ask(port: int, question: Question) -> Arrival:
    """Put the question once and read to the end of what arrives, however that end comes."""
    arrival = Arrival(question.kind, question.wallet.tenant, question.wallet.solvent, key=question.key)
    keyed = f"idempotency-key: {question.key}\r\n" if question.key else ""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {question.wallet.key}\r\n"
        f"{keyed}content-type: application/json\r\ncontent-length: {len(question.body)}\r\nconnection: close\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    received = bytearray()
    with socket.socket() as line:
        line.setblocking(False)
        try:
            async with asyncio.timeout(limits.PROVE_ANSWER_S):
                await loop.sock_connect(line, ("127.0.0.1", port))
                await loop.sock_sendall(line, head.encode() + question.body)
                while piece := await loop.sock_recv(line, _READ_BYTES):
                    received += piece
                    if question.cut_after and received.count(b"data: {") >= question.cut_after:
                        # Half of the line only: what had left before the platform noticed is still read.
                        line.shutdown(socket.SHUT_WR)
                        question = replace(question, cut_after=0)
        except (OSError, TimeoutError):  # killed: what had come until then is in `received`
            pass
    _understand(bytes(received), question, arrival)
    return arrival


def _understand(received: bytes, question: Question, arrival: Arrival) -> None:
    head, parted, rest = received.partition(b"\r\n\r\n")
    if not parted:
        return
    lines = head.split(b"\r\n")
    arrival.status = int(lines[0].split(b" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    arrival.request_id = headers.get(b"x-request-id", b"").decode()
    arrival.held = arrival.status == 429 and b'"money_held"' in rest
    arrival.final = arrival.status == 409 and b"retry-after" not in headers
    if arrival.status != 200:
        return
    body = _joined(rest) if headers.get(b"transfer-encoding") == b"chunked" else rest
    if question.stream:
        events = body.split(b"\n\n")[:-1]  # what follows the last blank line is half an event
        arrival.whole = bool(events) and events[-1].startswith(_END)
        answers = [_decode(event[6:]) for event in events if event.startswith(b"data: {")]
    else:
        arrival.whole = len(body) == int(headers.get(b"content-length", b"-1"))
        answers = [_decode(body)] if arrival.whole else []
    _count(answers, question, arrival)


def _count(answers: Sequence[_Answer], question: Question, arrival: Arrival) -> None:
    counted: dict[int, int] = {}
    for answer in answers:
        if answer.usage is not None:
            arrival.told = answer.usage.completion_tokens
        for choice in answer.choices:
            said = choice.delta or choice.message
            for word in (said.content or "").split() if said is not None and question.scripted else ():
                counted[choice.index] = counted.get(choice.index, 0) + 1
                arrival.in_order = arrival.in_order and word == f"t{counted[choice.index]}"
    arrival.tokens = sum(counted.values()) if question.scripted else None


def _joined(rest: bytes) -> bytes:
    """The body of chunks, the last of which may have been cut."""
    pieces, at = [], 0
    while (end := rest.find(b"\r\n", at)) >= 0:
        size = int(rest[at:end], 16)
        if size == 0:
            break
        pieces.append(rest[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)


class Crowd:
    """All customers of a campaign; what arrived is in `arrivals`. `stop` lets each finish his last question."""

    def __init__(self, port: int, rich: Wallet, tiny: Sequence[Wallet], engine_model: str | None) -> None:
        self._port = port
        self._rich = rich
        self._tiny = tiny
        self._engine_model = engine_model
        self._stopping = False
        self.progress = 0.0  # of the campaign; the tiny wallets are drained one after the other
        self.arrivals: list[Arrival] = []
        self.served = 0  # arrivals of an answer

    def stop(self) -> None:
        self._stopping = True

    async def scripted_customer(self, dice: Dice) -> None:
        """Asks the scripted model until stopped, in every manner a customer may."""
        kinds = ["stream"] * 8 + ["plain"] * 3 + ["cut"] * 4 + ["pair"] * 2 + ["tiny"] * 3 + ["keyed"] * 3
        kinds += ["unruly"] * 2 + ["bad key"]
        while not self._stopping:
            kind = dice.choice(kinds)
            wallet = self._rich
            if kind == "tiny":
                wallet = self._tiny[min(int(self.progress * len(self._tiny)), len(self._tiny) - 1)]
            elif kind == "bad key":
                wallet = Wallet("nobody", "sk-sy-wrong", False)
            question = scripted_question(kind, wallet, dice)
            if kind == "keyed":
                await self._ask_again_and_again(question, dice)
            else:
                await self._ask_until_answered(question)

    async def engine_customer(self, dice: Dice) -> None:
        """Asks the real engine until stopped."""
        while not self._stopping and self._engine_model is not None:
            await self._ask_until_answered(engine_question(self._engine_model, self._rich, dice))

    async def _ask_again_and_again(self, question: Question, dice: Dice) -> None:
        """Under one key: now and then twice at once, and again after a whole answer. Charged is it once at most."""
        while not self._stopping:
            both = [self._ask_until_answered(question) for _ in range(1 + (dice.random() < 0.2))]
            arrivals = await asyncio.gather(*both)
            if any(one.final for one in arrivals) or (any(one.whole for one in arrivals) and dice.random() < 0.5):
                return

    async def _ask_until_answered(self, question: Question) -> Arrival:
        while True:
            arrival = await ask(self._port, question)
            if arrival.status:
                self.arrivals.append(arrival)
                self.served += arrival.status == 200
            if self._stopping or 0 < arrival.status < 500:
                return arrival
            await asyncio.sleep(limits.PROVE_RETRY_MS / 1000)
