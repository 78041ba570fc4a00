"""The program with one mistake in it, to prove that the simulator finds mistakes.

Each mutant replaces one function while it is on. `python -m tests.simulator --mutant NAME --seeds 0..2000` must fail.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Use
from steelyard.kernel.settled import Position
from steelyard.ledger.leases import Leases
from steelyard.ledger.purse import Drawn, Purse
from steelyard.ledger.teller import Teller
from steelyard.metering import meter, recovery
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Reading
from steelyard.metering.slots import Slots, _at
from steelyard.processes.tail import Tail

_hold, _settle, _close, _recovered = Teller.hold, Teller.settle, Reading.close, recovery._closed
_intend = Reading.intend
_draw = Purse.draw


def _commit_before_send(reading: Reading, usage: Any) -> None:
    _intend(reading, usage)
    reading.commit(usage)


def _watermark_ahead(tail: Tail) -> Position | None:
    return tail._position if tail._position > tail._marked else None


def _release_twice(
    teller: Teller, request_id: bytes, tenant_id: int, hold_nano: int, charge_nano: int, used: Use | None = None
) -> int:
    known = teller.find(request_id)
    taken = _settle(teller, request_id, tenant_id, hold_nano, charge_nano, used)
    if known is not None:
        teller._held[tenant_id] -= known.amount_nano
    return taken


def _hold_again(teller: Teller, request_id: bytes, *others: Any) -> int:
    teller._holds.pop(request_id, None)
    return _hold(teller, request_id, *others)


def _slot_before_record(reading: Reading, end: Any) -> Any:
    slots, slot = reading._slots, reading.opened.slot
    if reading._closed is not None:
        return reading._closed
    slots.free(slot)
    closed = _close(reading, end)
    if not reading._meter._journal.failed:
        slots._free.remove(slot)  # it was freed twice
    return closed


def _settled_at_the_intent(opened: Any, slot: Any, clock: Any) -> Any:
    if slot is not None:
        import msgspec

        slot = msgspec.structs.replace(slot, committed=slot.intended)
    return _recovered(opened, slot, clock)


def _published_ahead(journal: Journal) -> None:
    """As `sync`, but what was appended during the sync is published with it."""
    with journal._syncing:
        if journal._failed:
            raise BooksError("failed")
        retired, journal._retired = journal._retired, []
        for old_fd, old_end in retired:
            journal._finish_segment(old_fd, old_end)
        segment, fd = journal._segment, journal._fd
        try:
            journal._disk.sync(fd)
        except OSError as error:
            journal._failed = True
            raise BooksError("failed") from error
        end = journal.end if journal._segment == segment else journal._synced
        journal._synced = end
        journal._lock.publish(end)


def _holds_of_the_dead_kept(teller: Teller, owner: str) -> int:
    return 0


def _leases_of_the_dead_kept(leases: Leases, series: str) -> None:
    """Nobody takes the lease of a dead worker back."""


def _wallet_first(purse: Purse, charge_nano: int, limit_nano: int | None = None) -> Drawn:
    """A charge draws on the wallet, and on grants for the rest: the teller and posting agree on it."""
    own = max(0, min(charge_nano, purse.wallet_nano))
    drawn = _draw(purse._replace(wallet_nano=purse.wallet_nano - own), charge_nano - own, limit_nano)
    return drawn._replace(wallet_nano=drawn.wallet_nano + own)


def _no_reset_at_claim(slots: Slots, request_id: bytes, watts_milli: int = 0) -> int | None:
    """The counts of the cell's last request stay when a new one takes it."""
    if not slots._free:
        return None
    index = slots._free.pop()
    at = _at(index)
    slots._words[at + 1] = int.from_bytes(request_id[:8], "big")
    slots._words[at + 2] = int.from_bytes(request_id[8:], "big")
    slots._words[at] = 1
    return index


def _nothing_beyond(settled: Usage, heard: Usage | None) -> Usage | None:
    """A vendor is owed no more than his answer's customer pays for."""
    return None


MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "commit-before-send": (Reading, "intend", _commit_before_send),
    "watermark-ahead": (Tail, "new_mark", _watermark_ahead),
    "release-on-settle-twice": (Teller, "settle", _release_twice),
    "hold-not-idempotent": (Teller, "hold", _hold_again),
    "slot-freed-before-close-record": (Reading, "close", _slot_before_record),
    "settled-at-the-intent": (recovery, "_closed", _settled_at_the_intent),
    "published-ahead-of-the-sync": (Journal, "sync", _published_ahead),
    "holds-of-the-dead-kept": (Teller, "owner_gone", _holds_of_the_dead_kept),
    "leases-of-the-dead-kept": (Leases, "drop", _leases_of_the_dead_kept),
    "wallet-drawn-before-grants": (Purse, "draw", _wallet_first),
    "slot-not-reset-at-claim": (Slots, "claim", _no_reset_at_claim),
    "heard-is-forgotten": (meter, "beyond", _nothing_beyond),
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The program with this mistake."""
    place, attribute, wrong = MUTANTS[name]
    right = getattr(place, attribute)
    setattr(place, attribute, wrong)
    try:
        yield
    finally:
        setattr(place, attribute, right)
