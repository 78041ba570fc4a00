"""After a crash: the close records that a dead writer could not write any more.

Owns reading the slots of a dead series, and having what it left on the medium first; writes nothing, books journal the
result in their own series. The same files and clock give the same records, so a recovery that was itself killed is
simply run again.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Opened
from steelyard.metering.closing import beyond, settled_usage
from steelyard.metering.disk import Disk
from steelyard.metering.lock import is_held
from steelyard.metering.slots import Slots, SlotState

SLOTS_NAME = "slots"
_SYSTEM_DISK = Disk()


def make_durable(directory: Path, disk: Disk = _SYSTEM_DISK) -> None:
    """Bring what a dead writer left in the page cache to the medium, before anything of it is posted (I8).

    Raises BooksError when the disk refuses.
    """
    try:
        for path in sorted(directory.iterdir()):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                disk.sync(fd)
            finally:
                os.close(fd)
        disk.sync_directory(directory)
    except OSError as error:
        raise BooksError(f"the journal {directory.name} cannot be synced: {error.strerror}") from error


def recover(directory: Path, opened: Iterable[Opened], clock: Clock) -> list[Closed]:
    """Settle `opened`, the requests of this series that its reader found without a close, from the slots.

    The reader must have read the dead series to its end. Raises BooksError when the writer is still alive.
    """
    if is_held(directory):
        raise BooksError(f"the journal {directory.name} still has a writer")
    try:
        slots = Slots.open(directory / SLOTS_NAME, readonly=True)
    except BooksError:  # lost or damaged with the machine, not with the process
        return [_closed(one, None, clock) for one in opened]
    try:
        return [_closed(one, _slot_of(one, slots), clock) for one in opened]
    finally:
        slots.close()


def _slot_of(opened: Opened, slots: Slots) -> SlotState | None:
    """The cell, if it still carries the request. Its state word is no matter: a close that was written and then lost
    with the power had already freed the cell, and the counts in it are still what was delivered."""
    if not 0 <= opened.slot < slots.count:
        return None
    slot = slots.read_slot(opened.slot)
    return slot if slot.request_id == opened.request_id else None


def _closed(opened: Opened, slot: SlotState | None, clock: Clock) -> Closed:
    """Without a slot nothing is known to have been delivered, so nothing is charged, and the record says so."""
    closed_ns = max(clock.now_ns(), opened.opened_ns)
    if slot is None:
        return Closed(opened.request_id, closed_ns, Usage(), End.WORKER_DIED.value, 0, 0, short_by_one_read=True)
    usage = settled_usage(opened, slot.committed, End.WORKER_DIED, slot.committed.cpu_ns, slot.watts_milli)
    return Closed(
        request_id=opened.request_id,
        closed_ns=closed_ns,
        usage=usage,
        end=End.WORKER_DIED.value,
        first_token_ns=slot.first_token_ns,
        duration_ns=slot.last_ns,
        short_by_one_read=slot.short_by_one_read,
        estimated=slot.estimated,
        heard=beyond(usage, slot.intended),  # the upstream had told of what was intended
    )
