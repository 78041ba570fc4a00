"""Server-sent events from bytes as they arrive (WHATWG HTML, section 9.2.6).

Owns the cut between events across reads and the bound on an unfinished one. Lines may end in LF or CRLF; a lone CR,
which nobody sends, is not a line end here. Only `data` fields are kept. Knows no JSON.
"""

from collections.abc import Iterable, Iterator

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.runs import Run, Runs


class EventReader:
    """Feed it reads, by one of the two ways; get the data of the events that became complete."""

    __slots__ = ("_data", "_data_bytes", "_event_bytes_max", "_rest", "_upstream")

    def __init__(self, upstream: str, *, event_bytes_max: int = limits.SSE_EVENT_BYTES_MAX) -> None:
        self._upstream = upstream
        self._event_bytes_max = event_bytes_max
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

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

    def feed_runs(self, read: bytes, runs: Runs) -> Iterable[bytes | Run]:
        """The same, one after the other; those that `runs` knows how to read by then come as one."""
        buffer = self._rest + read if self._rest else read
        run = None if self._data else runs.take(buffer, 0)
        if run is not None and run.end == len(buffer):  # as most have it
            self._rest = b""
            return (run,)
        return self._one_by_one(buffer, runs, run)

    def _one_by_one(self, buffer: bytes, runs: Runs, run: Run | None) -> Iterator[bytes | Run]:
        """`run`: the one that the buffer begins with."""
        data, at = self._data, 0
        while True:
            if run is not None:
                at = run.end
                yield run
            end = buffer.find(b"\n", at)
            if end < 0:
                break
            line = buffer[at:end]
            at = end + 1
            if line.startswith(b"data:"):
                runs.before = b"data: " if line[5:6] == b" " else b"data:"
                value = line[len(runs.before) :].removesuffix(b"\r")
                data.append(value)
                self._data_bytes += len(value)
            elif data and (not line or line == b"\r"):
                whole = data[0] if len(data) == 1 else b"\n".join(data)
                data.clear()
                self._data_bytes = 0
                runs.behind = b"\r\n\r\n" if line else b"\n\n"
                yield whole
            run = None if data else runs.take(buffer, at)
        self._rest = buffer[at:]
        self._check_size()

    def _check_size(self) -> None:
        if len(self._rest) + self._data_bytes > self._event_bytes_max:
            raise UpstreamError(self._upstream, f"sent an event of more than {self._event_bytes_max} bytes")
