"""Server-sent events from bytes as they arrive (WHATWG HTML, section 9.2.6).

Owns the cut between events across reads and the bound on an unfinished one. Lines may end in LF or CRLF; a lone CR,
which nobody sends, is not a line end here. Only `data` fields are kept. Knows no JSON.
"""

from collections.abc import Callable

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.runs import Run, Runs

_RETURN = ord("\r")


class EventReader(msgspec.Struct, eq=False):
    """Feed it reads, by one of the two ways; get the data of the events that became complete."""

    upstream: str
    event_bytes_max: int = limits.SSE_EVENT_BYTES_MAX
    between: bool = True  # what has come ends with the end of an event
    _rest: bytes = b""
    _data: list[bytes] = []
    _data_bytes: int = 0

    def feed(self, read: bytes) -> list[bytes]:
        """The data of each event completed by this read. Raises UpstreamError when one event outgrows the bound."""
        lines = (self._rest + read).split(b"\n")
        self._rest = lines.pop()
        complete: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                value = value.removesuffix(b"\r")
                data.append(value)
                self._data_bytes += len(value)
            elif data and (not line or line == b"\r"):
                complete.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
                self._data_bytes = 0
        self._check_size()
        return complete

    def feed_runs(
        self, read: bytes, runs: Runs, run: Run | None, one: Callable[[bytes], None], several: Callable[[Run], None]
    ) -> None:
        """The same, one after the other: `one` is handed each event's data, `several` those that `runs` knows how to
        read by then. `run`: what it has found where the read begins, if that is between two events."""
        data, at = self._data, 0
        buffer = self._rest + read if self._rest else read
        if run is None and self._rest and not data:
            run = runs.take(buffer, 0)
        while True:
            if run is not None:
                at = run.end
                several(run)
            end = buffer.find(b"\n", at)
            if end < 0:
                break
            is_spaced = buffer.startswith(b"data: ", at)
            if is_spaced and not data and buffer.startswith(b"\n\n", end) and buffer[end - 1] != _RETURN:
                start, at = at + 6, end + 2  # as most are: one line, and the end of the event
                runs.before, runs.behind = b"data: ", b"\n\n"
                one(buffer[start:end])
            elif is_spaced or buffer.startswith(b"data:", at):
                start, at = at + 6 if is_spaced else at + 5, end + 1
                runs.before = b"data: " if is_spaced else b"data:"
                value = buffer[start:end].removesuffix(b"\r")
                data.append(value)
                self._data_bytes += len(value)
            else:
                line = buffer[at:end]
                at = end + 1
                if data and (not line or line == b"\r"):
                    whole = data[0] if len(data) == 1 else b"\n".join(data)
                    data.clear()
                    self._data_bytes = 0
                    runs.behind = b"\r\n\r\n" if line else b"\n\n"
                    one(whole)
            run = None
            if not data and runs.known and buffer.startswith(runs.begin, at):
                run = runs.take(buffer, at)
        self._rest = buffer[at:]
        self._check_size()

    def _check_size(self) -> None:
        self.between = not (self._rest or self._data)
        if len(self._rest) + self._data_bytes > self.event_bytes_max:
            raise UpstreamError(self.upstream, f"sent an event of more than {self.event_bytes_max} bytes")
