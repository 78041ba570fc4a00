"""What the conductor uses: one reading per request in flight, from open record to close record.

Owns the pairing of journal and slots (open: slot, then record; close: record, then slot) and the worker's count of
requests in flight. Knows no prices. Invariant I6: usage in a close record has left user space, every token of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import BooksError, ClientGone, UpstreamError, overloaded, unavailable
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Quote
from steelyard.kernel.roles import Answer, Sending
from steelyard.kernel.run import Signal
from steelyard.kernel.settled import WHOLE, Closed, End, Moved, Opened
from steelyard.kernel.thinking import thinking_of
from steelyard.metering.closing import beyond, settled_usage
from steelyard.metering.energy import EnergyClocks, energy_uj, is_measured
from steelyard.metering.journal import Journal
from steelyard.metering.slots import Cell, Slots

_NOTHING = Usage()
_NONE = -1
_TAKES_NONE = "The journal takes no new requests; nothing was charged."


class Meter:
    """One per worker and epoch.

    `soon` calls something in the loop's next turn: closes wait for that, or for the next record, and leave with it in
    one write. Until then their slots say what they say. Without it each is written at once.
    """

    def __init__(
        self,
        journal: Journal,
        slots: Slots,
        clock: Clock,
        energy: EnergyClocks,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._soon = soon
        self._journal = journal
        self._slots = slots
        journal.written = slots.free_all
        self._now_ns = clock.now_ns
        self._monotonic_ns = clock.monotonic_ns
        self._energy = energy
        self._retired = False
        self._last_ns = 0
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests opened and not closed."""
        return self._in_flight

    @property
    def failed(self) -> bool:
        """The medium takes nothing more: the worker must be replaced, its successor settles from the slots."""
        return self._journal.failed or self._slots.failed

    def open(self, order: Order, quote: Quote, why: bytes = b"") -> "Reading":
        """Put the request on record before the upstream is called.

        Raises CallerError `overloaded` when no slot is free, `journal_failed` when the record cannot be written and
        `draining` after `retire`; then nothing was opened.
        """
        if self._retired:
            raise unavailable("draining", "This worker is stopping.")
        slots, caller, offer, price, cost = self._slots, quote.caller, quote.offer, quote.price, quote.cost
        if slots.failed:
            raise unavailable("journal_failed", _TAKES_NONE)
        slot = slots.claim(order.request_id, cost.watts_milli)
        if slot is None:
            self._journal.flush()  # those whose close waits have theirs still
            slot = slots.claim(order.request_id, cost.watts_milli)
        if slot is None:
            raise overloaded(f"All {slots.count} places for running requests are taken.")
        opened = Opened(  # by place, which takes a sixth of the time
            order.request_id,
            quote.priced_ns,  # not now: the hold took its time, and a price may have changed meanwhile
            slot,
            caller.tenant_id,
            caller.project_id,
            caller.key_id,
            offer.model,
            offer.upstream,
            price.id,
            cost.id,
            price.currency,
            quote.hold_nano,
            quote.max_tokens,
            order.sequences,
            order.stream,
            quote.lease,
            quote.rate_id,
            why,
            (),  # nobody was tried in vain so far
            price.met,
            cost.met,
            thinking_of(order.params),
        )
        try:
            self._journal.append(opened)
        except BooksError as error:
            slots.free(slot)
            raise unavailable("journal_failed", _TAKES_NONE) from error
        self._in_flight += 1
        gauge, now = self._energy.gauges[offer.upstream], self._monotonic_ns
        reading = Reading(opened, slots, gauge, now, now(), _meter=self, _watts_milli=cost.watts_milli)
        if not gauge.stands_still:
            reading.begins(order.sequences)
        return reading

    def look_again(self) -> None:
        """Look for the clocks of engines that have started since; from time to time."""
        self._energy.look_again()

    def retire(self) -> None:
        """Open nothing more; readings under way go on to their close."""
        self._retired = True

    def close(self) -> None:
        """Let journal, slots and clocks go. Requests still in flight are left to recovery."""
        self._retired = True
        self._journal.close()
        self._slots.close()
        self._energy.close()

    def now_ns(self) -> int:
        """Wall time that never steps back within this journal."""
        now_ns = self._now_ns()
        self._last_ns = now_ns = now_ns if now_ns > self._last_ns else self._last_ns
        return now_ns


class Reading(Cell, eq=False, kw_only=True):
    """One request in flight. `intend`, send, `commit` for every piece, by `pass_on` or `deliver`; `close` once."""

    _meter: Meter
    _watts_milli: int
    _starts_uj: int = 0  # measured energy, as `_starts_ns`
    _stretch: int = _NONE  # of measuring, in which all of them began or went on; 0: in several
    total: Usage = _NOTHING  # all the upstream told of, over all sequences, delivered or not: its vendor bills it
    _closed: Closed | None = None
    _refused: bool = False  # the journal would not have the close record

    @property
    def request_id(self) -> bytes:
        return self.opened.request_id

    def waits(self) -> None:
        """Its sequences stand in a line: what the engine is busy with is not theirs until they begin."""
        self._gauge.run(-self._running)
        self._running = self._starts_ns = self._starts_uj = 0
        self._stretch = _NONE

    def begins(self, sequences: int = 1) -> None:
        """The engine is busy with so many more of them from here on, for the first time or again after a rest."""
        gauge = self._gauge
        measured_uj, stretch = gauge.measured()
        self._stretch = stretch if self._stretch in {_NONE, stretch} else 0
        self._running += sequences
        gauge.run(sequences)
        self._starts_ns += gauge.per_sequence_ns() * sequences
        self._starts_uj += measured_uj * sequences

    def stops(self) -> None:
        """One of them makes way or has ended: its time until now stands, and what follows is not its own unless it
        begins again."""
        if self._closed is None:
            self.begins(-1)

    def heard(self, usage: Usage) -> None:
        """What the upstream has told of by now; its vendor may bill it though none of it is passed on yet."""
        self.total = usage

    def spent(self, usage: Usage) -> Usage:
        """These counts with the CPU time and the energy they have taken so far."""
        if self._gauge.stands_still or not (cpu_ns := self._cpu_ns()):
            return usage
        measured_uj = self._measured_uj()
        spent_uj = energy_uj(cpu_ns, self._watts_milli) if measured_uj is None else measured_uj
        return usage + Usage(cpu_ns=cpu_ns, energy_uj=spent_uj)

    def pass_on(self, answer: Answer, sequence: int, event: Event, usage: Usage) -> Sending:
        """Send what the answer has to say of an event; `usage`: over all sequences, it included.

        To be awaited only where the customer takes more slowly than the upstream gives: the commit comes when the
        piece has left, whoever runs then. One piece at a time is on its way.
        """
        self.total = usage
        if event.estimated:
            if sequence not in self.guessed:
                self.guessed |= {sequence}
        elif self.guessed:
            self.guessed -= {sequence}
        piece = answer.render(sequence, event)
        if not piece:
            return None
        if self._leaving is not None:
            return self._behind(answer, piece, usage)
        self.intend(usage)
        sending = answer.send(piece)
        if isinstance(sending, Signal):
            self._leaving = sending
            sending.resume = self.commit
            return None
        if sending is not None:
            return self._until_left(sending, usage)
        self.commit(usage)
        return None

    async def _left(self) -> None:
        """Return when all that was passed on has left. Raises ClientGone when it never will."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            leaving.resume = None
            await leaving
            self.commit(self._intended)

    async def _behind(self, answer: Answer, piece: bytes, usage: Usage) -> None:
        await self._left()
        if sending := self.deliver(answer, piece, usage):
            await sending
        self.commit(usage)

    def deliver(self, answer: Answer, piece: bytes, usage: Usage) -> Sending:
        """Send one piece, after which the customer will have had `usage` in all. To be awaited until it has left; then
        its `commit` is to follow."""
        if self._leaving is not None:
            return self._behind(answer, piece, usage)
        self.intend(usage)
        return answer.send(piece)

    async def _until_left(self, sending: Awaitable[None], usage: Usage) -> None:
        await sending
        self.commit(usage)

    async def fail(self, answer: Answer, error: UpstreamError) -> None:
        """Tell a failure inside the answer, behind all that was passed on. Raises ClientGone."""
        await self._left()
        if sending := answer.send(answer.failing(error)):
            await sending

    def close(self, end: End) -> Closed:
        """Have the close record written, and the slot freed behind it. The second call returns the first one's record.

        When the journal refuses, the slot stays claimed and keeps the counts: recovery settles them after this worker.
        """
        if self._closed is not None:
            return self._closed
        opened, self._leaving = self.opened, None  # the slot is soon another's: what leaves now is not counted
        cpu_ns, measured_uj = (0, None) if self._gauge.stands_still else (self._cpu_ns(), self._measured_uj())
        if self._running:
            self._gauge.run(-self._running)
        usage = settled_usage(opened, self.delivered, end, cpu_ns, self._watts_milli, measured_uj)
        meter, intended, delivered = self._meter, self._intended, self.delivered
        self._closed = closed = Closed(  # by place, as the open record
            opened.request_id,
            meter.now_ns(),
            usage,
            str(end),
            self._first_token_ns,
            self._monotonic_ns() - self._opened_mono_ns,
            intended is not delivered and intended != delivered,
            self._estimated,
            None if end in WHOLE else beyond(usage, self.total),
            measured_uj or 0,
        )
        meter._in_flight -= 1
        journal = meter._journal
        try:
            is_first = journal.append_soon(closed, opened.slot)
        except BooksError:
            self._refused = True
        else:
            if is_first:
                if meter._soon is None:
                    journal.flush()
                else:
                    meter._soon(journal.flush)
        return closed

    def move(self, quote: Quote, fault: str = "") -> None:
        """Put on record that another upstream is called now, and why. What the one before spent on it stays its own.

        Raises CallerError `journal_failed` when that cannot be written; then nobody may be called.
        """
        meter, opened = self._meter, self.opened
        offer, price, cost = quote.offer, quote.price, quote.cost
        ids = (price.id, cost.id, quote.max_tokens, quote.rate_id, fault, price.met, cost.met)
        where = (quote.model, offer.upstream, *ids)
        moved = Moved(opened.request_id, meter.now_ns(), *where)
        try:
            meter._journal.append(moved)
        except BooksError as error:
            raise unavailable("journal_failed", _TAKES_NONE) from error
        self.opened = moved.moves(opened)
        self.total = _NOTHING
        self._watts_milli = cost.watts_milli
        self._slots.power(opened.slot, cost.watts_milli)
        self.waits()
        self._gauge = meter._energy.gauges[offer.upstream]
        self.begins(opened.sequences)

    async def deliver_last(self, answer: Answer, piece: bytes, *, strict: bool) -> None:
        """Send what had to wait for the close record, if anything had to; `strict`: until that is on the medium."""
        if not piece:
            return
        with suppress(ClientGone):
            if strict:
                await self.durable(answer)
            if sending := answer.send(piece):
                await sending  # to one who is gone as well: what an Idempotency-Key keeps must be whole

    async def durable(self, answer: Answer) -> None:
        """Return when the close record is on the medium, or when the customer has gone.

        Raises CallerError `journal_failed` when it never will be.
        """
        try:
            journal = self._meter._journal
            journal.flush()
            if self._refused or journal.failed:
                raise BooksError("the close record was not written")
            await journal.wait_synced()
        except BooksError as error:
            raise unavailable("journal_failed", "The end of this answer could not be put on record.") from error
        except asyncio.CancelledError:
            if not answer.gone:
                raise

    def _measured_uj(self) -> int | None:
        measured_uj, stretch = self._gauge.measured()
        return measured_uj * self._running - self._starts_uj if is_measured(self._stretch, stretch) else None
