"""The books' hand on the key table: made from the database at the start, changed key by key, copied when crowded.

Owns which file counts. What changes is in force at once for every process that has mapped it. A copy with more room is
made in a thread, and what changes meanwhile is told to both.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection

from steelyard.identity.store import KeyCounts, key_counts, live_callers
from steelyard.kernel.key_table import KeyTableWriter, Sizes
from steelyard.processes.outcome import KeyChange

log = structlog.get_logger()
_PROJECT_BYTES = 96  # of a record, on the average; a table that is too small for longer names is made anew


class KeyRegister:
    """One per books process. `on_moved` is called with the path of a new table once it counts."""

    def __init__(self, folder: Path, table: KeyTableWriter) -> None:
        self._folder = folder
        self.table = table
        self._number = 0
        self._growing: asyncio.Task[None] | None = None
        self._since: list[KeyChange] = []  # told to the copy that is being made
        self.on_moved: Callable[[Path], None] = lambda path: None

    @classmethod
    def make(cls, folder: Path, connection: Connection) -> "KeyRegister":
        """Read every live key once. What earlier books left in the folder goes. Raises BooksError without room."""
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        counts = key_counts(connection)
        room, number = _sizes(counts), 0
        while True:
            table = KeyTableWriter.create(folder / f"0-{number}", room)
            if all(table.add(digest, caller) for digest, caller in live_callers(connection)):
                return cls(folder, table)
            _drop(table)
            room, number = room._replace(area_words=2 * room.area_words), number + 1

    def apply(self, changes: Sequence[KeyChange]) -> None:
        """Put the changes in force for all who have mapped the table that counts. Call it in the order of the commits.

        What has no room waits for a larger table; what ends has ended at once.
        """
        whole = self._put(self.table, changes)
        if self._growing is None and changes and (self._since or not whole or self.table.crowded):
            self._growing = asyncio.ensure_future(self._replace())
        if self._growing is not None:
            self._since += changes

    async def applied(self, changes: Sequence[KeyChange]) -> None:
        """Return when these are in force. Raises BooksError when the disk has no room for a larger table."""
        growing, of_key = self._growing, self.table.of_key
        if growing is not None and any(one.caller is not None and of_key(one.key_id) is None for one in changes):
            await asyncio.shield(growing)

    async def close(self) -> None:
        if self._growing is not None:
            await asyncio.wait([self._growing])
        self.table.close()

    async def _replace(self) -> None:
        """Go over to a copy with more room; to a larger one where what came meanwhile does not fit into it."""
        try:
            while True:
                self._number += 1
                path, more = self._folder / f"1-{self._number}", 2 * len(self._since) + len(self.table)
                made = await asyncio.to_thread(self.table.grown, path, more)
                if self._put(made, self._since):
                    break
                _drop(made)
        finally:
            self._growing = None
        self._since.clear()  # kept when it failed: the next change tries again
        old, self.table = self.table, made
        _drop(old)
        log.info("key_table_grown", keys=len(made), slots=made.sizes.slots)
        self.on_moved(path)

    @staticmethod
    def _put(table: KeyTableWriter, changes: Iterable[KeyChange]) -> bool:
        """Change by change in their order. False when one of them had no room; the others are in force."""
        whole = True
        for change in changes:
            if change.caller is None:
                table.end(change.key_id)
            else:
                whole &= table.add(change.digest, change.caller)
        return whole


def _drop(table: KeyTableWriter) -> None:
    """Readers that have it mapped keep it."""
    table.path.unlink()
    table.close()


def _sizes(counts: KeyCounts) -> Sizes:
    return Sizes.of(counts.live, counts.key_id_max, counts.project_id_max, counts.projects * _PROJECT_BYTES * 2)
