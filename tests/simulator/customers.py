"""Customers and the upstream: who asks, reads slowly, hangs up; who answers, fails, and does not keep to its cap.

Pieces carry their counts, so a customer can add up what left user space for him.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING

import msgspec
from tests.simulator.world import CALM_NS

from steelyard import flow
from steelyard.kernel.errors import CallerError, ClientGone, SteelyardError, UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Order, Quote
from steelyard.kernel.run import Signal

if TYPE_CHECKING:
    from tests.simulator.actors import Worker

MODEL, UPSTREAM = "m", "up"
CONTEXT, OUTPUT_MAX = 400, 60
_MONEY = {"insufficient_quota", "money_held"}
_ENDS = {"overloaded": "slots exhausted", **dict.fromkeys(_MONEY, "wallet spent to the last hold")}
_REFUSED = {*_MONEY, "rate_limit_exceeded", "budget_exceeded"}
_pack, _unpack = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Usage).decode


SECRETS: dict[int, str] = {}  # tenant → his API key; filled with the database that seeds begin with


class Repeatable:
    """The wire of a request with an Idempotency-Key: remembers what was sent, and takes an answer that is replayed."""

    def __init__(self, customer: "Customer", tenant_id: int, key: str, body_hash: bytes) -> None:
        self._customer = customer
        self.place, self.key, self.body_hash = (tenant_id, key), key, body_hash
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []

    @property
    def started(self) -> bool:
        return bool(self.pieces)

    @property
    def recorded(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def saw_stream_end(self) -> bool:
        return self._customer.told_all

    async def replay(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._customer.replayed = True
        self._customer.oracle.replayed(self.place, body)


class Customer:
    """One request from the customer's side: an Ask and an Answer."""

    holds_back = False

    def __init__(self, worker: "Worker", order: Order, tenant_id: int) -> None:
        self.authorization = f"Bearer {SECRETS[tenant_id]}"
        self.wire: Repeatable | None = None
        self.replayed = self._whole = False
        self._worker, self._order = worker, order
        self.oracle = worker.house.oracle
        self.caller = Caller(tenant_id, tenant_id, tenant_id, f"t{tenant_id}", "default", "CNY")
        self.gone = False
        self.floor_nano = 0
        self._told = [Usage()] * order.sequences
        self._opened = self._began = self.told_all = False

    async def order(self) -> Order:
        return self._order

    async def ask(self) -> None:
        worker, world, request_id = self._worker, self._worker.world, self._order.request_id
        end = "failed"
        try:
            if self.wire is None:
                end = (await flow.paid_request(worker.conductor, self, self)).closed.end
            else:
                await worker.once.paid_request(self.wire, self, self.wire.key)  # type: ignore[arg-type]
                end = "replayed" if self.replayed else "complete" if self._whole else "upstream_error"
        except CallerError as error:
            end = error.code
        except UpstreamError as error:
            end = "refused" if 400 <= error.status < 500 else "upstream_error"
        except asyncio.CancelledError:
            end = "client_gone" if self.gone else "drained"
        except ClientGone:  # found while it was told that the upstream had failed
            end = "upstream_error"
        except SteelyardError as error:
            self.oracle.fault(f"{request_id.hex()} got {error!r}")
        finally:
            if not worker.process.dead:
                worker.asking.pop(request_id, None)
                world.tally[_ENDS.get(end, f"request ended: {end}")] += 1
                if end == "failed":
                    self.oracle.fault(f"{request_id.hex()} ran into a bug: {sys.exception()!r}")
                if end in _REFUSED:
                    calm = world.now_ns - world.disturbed_ns > CALM_NS
                    if (bound := self.oracle.bounds.get(self.caller.tenant_id)) and end not in _MONEY:
                        world.tally[f"limit reached: {bound.kind}"] += 1
                    self.oracle.refuse(request_id, end, self.floor_nano, calm, world.now_ns)
                else:
                    self.oracle.ended(request_id, end, world.now_ns)
                if self._opened and worker.journal is not None and not worker.journal.failed:
                    worker.closes.append((worker.journal.due, request_id))

    def hang_up(self, task: "asyncio.Task[None]") -> None:
        if task.done() or self._worker.process.dead or self._worker.process.paused:
            return
        self.gone = True
        self._worker.world.tally[f"client gone {self._stage()}"] += 1
        if self._worker.world.chance(0.7):
            self._over("client_gone")
            task.cancel()

    def _over(self, end: str) -> None:
        """With a key the end of the answer is not that of the call: the books are told of it first."""
        if self.wire is not None and not self._worker.process.dead:
            self.oracle.ended(self._order.request_id, end, self._worker.world.now_ns)

    def _stage(self) -> str:
        if not self._opened:
            return "before it was opened"
        if not self._began:
            return "before the first byte"
        return "before the end was told" if self.told_all else "in mid-stream"

    def begin(self, order: Order, quote: Quote) -> None:
        self._opened = True

    def render(self, sequence: int, event: Event) -> bytes:
        self._told[sequence] = event.usage
        return _pack(sum(self._told, Usage())) if event.text else b""

    def closing(self, usage: Usage) -> bytes:
        self.told_all = True
        if self.wire is not None:
            self.oracle.answered(self.wire.place, self.wire.recorded + _pack(usage))
        return _pack(usage)

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        return closing, b""

    def failing(self, error: UpstreamError) -> bytes:
        self._over("upstream_error")
        return b""

    def send(self, piece: bytes) -> Awaitable[None]:
        """Half of them are told when a piece has left, as on the fast front; the others' flow waits for it."""
        if self.wire is not None or self._order.request_id[-1] & 1:
            return self._sent(piece)
        leaving: Signal[None] = Signal()
        self._worker.process.loop.create_task(self._leave(piece, leaving))
        return leaving

    async def _leave(self, piece: bytes, leaving: Signal[None]) -> None:
        try:
            await self._sent(piece)
        except ClientGone as error:
            leaving.fail(error)
        else:
            leaving.give()

    async def _sent(self, piece: bytes) -> None:
        world, habits = self._worker.world, self._worker.house.habits
        if self.wire is not None:
            self.wire.pieces.append(piece)
        roll = world.random.random()
        if roll < habits.slow:
            world.tally["slow reader"] += 1
            await asyncio.sleep(world.random.random() * 0.004)
        if self.gone:
            self._over("client_gone")
            raise ClientGone("gone")
        self._worker.process.burn("send")
        if piece:
            self._began = True
            self.oracle.left_user_space(self._order.request_id, _unpack(piece))
        self._worker.process.burn("sent")
        if roll < habits.slow / 2:
            await asyncio.sleep(0)
        if self.told_all:
            self._whole = True
            self._over("complete")


class Upstream:
    """A model that answers at its own pace, fails now and then, and does not always keep to its cap."""

    name = UPSTREAM

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._world = worker.world

    async def stream(
        self, offer: Offer, params: dict[str, msgspec.Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> AsyncGenerator[Event, None]:
        rng, habits, tally = self._world.random, self._worker.house.habits, self._world.tally
        prompt = int(bytes(params["prompt"]))
        cached = rng.randrange(prompt) if rng.random() < 0.4 else 0
        if rng.random() < habits.breaks:
            tally["upstream refused"] += 1
            raise UpstreamError(self.name, "no", status=rng.choice((400, 500)))
        length = min(rng.randrange(0, OUTPUT_MAX), max_tokens)
        if excessive := rng.random() < habits.excess:
            length += max_tokens
            tally["upstream above its cap"] += 1
            self._worker.house.oracle.above_cap.add(request_id)
        silent = rng.random() < habits.odd  # an upstream without usage
        tally["upstream without usage"] += silent
        if silent:
            self._worker.house.oracle.unweighed.add(request_id)
        written = rng.randrange(prompt - cached + 1) if rng.random() < 0.3 else 0
        thoughts = rng.randrange(length + 1) if rng.random() < 0.4 else 0  # how many of its tokens are reasoning
        tally["cache written"] += bool(written)
        tally["reasoning"] += bool(thoughts)

        def used(output: int) -> Usage:
            reasoning = min(output, thoughts)
            prompted = Usage(prompt - cached - written, cached, cache_write=written)
            return Usage() if silent else prompted + Usage(output=output - reasoning, reasoning=reasoning)

        cells = self._worker.house.oracle.said.call(request_id)
        cell, output = len(cells) - 1, 0
        usage = Usage()
        while output < length:
            output = min(length, output + rng.randrange(1, 5))
            if rng.random() < 0.6:
                await asyncio.sleep(rng.random() * 0.003)
            if rng.random() < habits.breaks / 8:
                tally["upstream cut its stream"] += 1
                raise UpstreamError(self.name, "broken")
            usage = used(output)
            cells[cell] = usage.total
            yield Event("x" if rng.random() < 0.95 else "", usage, estimated=silent)
        usage = used(output)
        cells[cell] = usage.total
        yield Event("", usage, "stop", estimated=silent)
        if rng.random() < habits.odd:
            tally["upstream told usage twice"] += 1
            yield Event("", usage, estimated=silent)
        if rng.random() < habits.odd and output and not (excessive or silent):
            tally["upstream took counts back"] += 1
            yield Event("x", used(output - 1))

    async def count(self, offer: Offer, params: dict[str, msgspec.Raw]) -> int | None:
        return None

    async def ready(self, offer: Offer) -> bool:
        return True
