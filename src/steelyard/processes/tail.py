"""Following one journal series: what was read, and how far the watermark may go.

Owns no decision about money. The watermark of a series stays at or before its oldest request without a close, because
a restart must find that open record again; requests behind it that are posted already are then read once more and
skipped by their id (ledger.posting). So nothing is lost and nothing counts twice (I5, I8).
"""

import os
from pathlib import Path

from steelyard.kernel.settled import Closed, Position
from steelyard.metering import reader
from steelyard.metering.frames import segment_path

_SETTLED_MARK = "settled"


class Tail:
    """One series. `live` until its writer is known to be dead."""

    def __init__(self, directory: Path, position: Position, *, live: bool) -> None:
        self.directory = directory
        self.name = directory.name
        self.live = live
        self.owed: list[Closed] | None = None  # what recovery found, the same for every try to write it
        self.recovered = False
        self.closes = 0
        self._position = position
        self._marked = position
        self._unresolved: dict[bytes, Position] = {}  # request → start of the read that found it; oldest first
        self._torn = False

    def read(self, records_max: int) -> tuple[reader.Batch, bool]:
        """The next records, and whether there may be more now. Raises BooksError when the series is damaged."""
        until = reader.synced(self.directory) if self.live else None
        if until is not None and until <= self._position:
            return reader.Batch([], self._position), False
        self._start = self._position
        batch = reader.read(self.directory, self._position, until=until, max_records=records_max)
        self._position = batch.end
        self._torn = self._torn or batch.torn
        return batch, len(batch.records) >= records_max

    def unresolved(self, request_id: bytes) -> None:
        """Keep the watermark before the read that found this request."""
        self._unresolved.setdefault(request_id, self._start)

    def resolve(self, request_id: bytes) -> None:
        self._unresolved.pop(request_id, None)

    @property
    def open_requests(self) -> list[bytes]:
        return list(self._unresolved)

    def new_mark(self) -> Position | None:
        """Where the watermark belongs now; None when it stands there already."""
        mark = next(iter(self._unresolved.values()), self._position)
        return mark if mark > self._marked else None

    def mark(self, position: Position) -> None:
        """The watermark is committed."""
        self._marked = position

    def finish(self) -> None:
        """The dead series is settled whole: never read it again, and give back the space behind its last record."""
        (self.directory / _SETTLED_MARK).touch()
        path = segment_path(self.directory, self._position.segment)
        if not self._torn and path.exists():
            os.truncate(path, self._position.offset)


def is_settled(directory: Path) -> bool:
    """Whether the series was finished."""
    return (directory / _SETTLED_MARK).exists()
