"""Reads every journal series from its first record into a scratch database, for a replay.

Owns pairing opens with closes on disk instead of in memory, and telling what must be in the books already (opened
before the watermark) from what may still be on its way. Checks I8 on the way. Knows no money.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Closed, Moved, Opened, Position, Settlement
from steelyard.metering.frames import segments
from steelyard.metering.reader import is_held, read, series, synced

Complain = Callable[[str, str], None]
"""Called with an invariant and what does not hold."""

_RECORDS_PER_READ = 1000
_IDS_PER_QUERY = 500
_SCHEMA = (
    "CREATE TABLE staged_opens (request_id BLOB PRIMARY KEY, series TEXT, due INTEGER, record BLOB) WITHOUT ROWID",
    "CREATE TABLE staged_closes (request_id BLOB PRIMARY KEY, series TEXT, due INTEGER, record BLOB) WITHOUT ROWID",
)
_decode_opened = msgspec.msgpack.Decoder(Opened).decode
_decode_closed = msgspec.msgpack.Decoder(Closed).decode
_encode = msgspec.msgpack.Encoder().encode


class Staged(NamedTuple):
    """A request as the journals have it, and the series that opened and that closed it."""

    settlement: Settlement
    opener: str
    closer: str


class Stage:
    """Two tables in a scratch database. `tell` is called with the number of closes of each read."""

    def __init__(self, scratch: Connection, complain: Complain, tell: Callable[[int], None]) -> None:
        self._scratch = scratch
        self._complain = complain
        self._tell = tell
        for statement in _SCHEMA:
            scratch.exec_driver_sql(statement)

    def fill(self, journals: Path, marks: dict[str, Position]) -> None:
        """Read all series. `marks` must have been read from the books before, so that the journals are ahead."""
        found = {directory.name: directory for directory in series(journals)}
        for name in sorted(marks.keys() - found.keys()):
            self._complain("I8", f"the journal {name} is gone, its watermark is not")
        for name, directory in found.items():
            self._take(directory, marks.get(name, Position()))

    def _take(self, directory: Path, mark: Position) -> None:
        name, at = directory.name, Position()
        try:
            held, safe = is_held(directory), synced(directory)
            if held and mark > safe:
                self._complain("I8", f"the watermark of {name} is at {_text(mark)}, its writer synced {_text(safe)}")
            at = self._read(directory, at, mark, due=True)
            if at < mark:
                self._complain("I8", f"the watermark of {name} is at {_text(mark)}, its journal ends at {_text(at)}")
                return
            at = self._read(directory, at, safe if held else None, due=False)
            if at < safe or (not held and segments(directory)[-1:] > [at.segment]):
                self._complain("I8", f"the journal {name} breaks off at {_text(at)}")
        except BooksError as error:
            self._complain("I12" if at < mark else "I8", str(error))

    def _read(self, directory: Path, position: Position, until: Position | None, *, due: bool) -> Position:
        """Stage all records up to `until`, or up to the end of what can be trusted. Returns where it came to."""
        while until is None or position < until:
            batch = read(directory, position, until=until, max_records=_RECORDS_PER_READ)
            position = batch.end
            opens = [one for one in batch.records if isinstance(one, Opened)]
            closes = [one for one in batch.records if isinstance(one, Closed)]
            self._put("staged_opens", directory.name, opens, due=due)
            for moved in batch.records:
                if isinstance(moved, Moved):
                    self._move(moved)
            self._put("staged_closes", directory.name, closes, due=due)
            self._tell(len(closes))
            if len(batch.records) < _RECORDS_PER_READ:
                break
        return position

    def _put(self, table: str, name: str, records: Sequence[Opened | Closed], *, due: bool) -> None:
        if not records:
            return
        rows = [(one.request_id, name, int(due), _encode(one)) for one in records]
        statement = f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?)"  # noqa: S608 - one of our two tables
        if self._scratch.exec_driver_sql(statement, rows).rowcount == len(rows):
            return
        for request_id, _, _, record in rows:
            known = self._scratch.exec_driver_sql(
                f"SELECT series, record FROM {table} WHERE request_id = ?",  # noqa: S608 - one of our two tables
                (request_id,),
            ).one()
            if bytes(known[1]) != record:
                self._complain("I12", f"{request_id.hex()} is in {known[0]} and, with other counts, in {name}")

    def _move(self, moved: Moved) -> None:
        """The request as it was open at last."""
        query = "SELECT record FROM staged_opens WHERE request_id = ?"
        for (record,) in self._scratch.exec_driver_sql(query, (moved.request_id,)).all():
            opened = _encode(moved.moves(_decode_opened(record)))
            change = "UPDATE staged_opens SET record = ? WHERE request_id = ?"
            self._scratch.exec_driver_sql(change, (opened, moved.request_id))

    def take(self, request_ids: Sequence[bytes]) -> Iterator[Staged]:
        """Those of these requests that the journals opened and closed, in the order of their ids."""
        for start in range(0, len(request_ids), _IDS_PER_QUERY):
            some = tuple(request_ids[start : start + _IDS_PER_QUERY])
            places = ", ".join("?" * len(some))
            query = (
                "SELECT o.record, c.record, o.series, c.series FROM staged_opens o"  # noqa: S608 - placeholders only
                f" JOIN staged_closes c USING (request_id) WHERE o.request_id IN ({places}) ORDER BY o.request_id"
            )
            for opened, closed, opener, closer in self._scratch.exec_driver_sql(query, some).all():
                yield Staged(Settlement(_decode_opened(opened), _decode_closed(closed)), opener, closer)

    def left_out(self) -> Iterator[tuple[bytes, str]]:
        """Requests before their watermark, and their series, that the scratch books do not have."""
        query = (
            "SELECT request_id, series FROM staged_opens o WHERE due"
            " AND NOT EXISTS (SELECT 1 FROM usage u WHERE u.request_id = o.request_id)"
        )
        for request_id, name in self._scratch.exec_driver_sql(query):
            yield bytes(request_id), name


def _text(position: Position) -> str:
    return f"{position.segment}:{position.offset}"
