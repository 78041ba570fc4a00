"""The two files a job writes: answers in one, errors in the other, a line each in the shape of the Batch API.

A line counts as kept when it is on the medium; lines that come together share one sync. What an earlier worker kept is
read at the start, so a line is never run a second time once its answer is kept. One writer at a time (flock).
"""

import asyncio
import fcntl
import os
from pathlib import Path

import msgspec

from steelyard.jobs.content import Content, write_whole
from steelyard.jobs.records import Job
from steelyard.kernel.ids import text_from_id
from steelyard.metering.disk import Disk

_disk = Disk()
_NULL = msgspec.Raw(b"null")


class Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class LineError(msgspec.Struct, frozen=True):
    code: str
    message: str


class Result(msgspec.Struct, frozen=True):
    """One line of either file."""

    id: str
    custom_id: str
    response: Response | None
    error: LineError | None


class _Known(msgspec.Struct, frozen=True):
    custom_id: str


_decode_known = msgspec.json.Decoder(_Known).decode


class Appended:
    """A file that only grows, by whole lines. Use it from one loop; `open` blocks."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.custom_ids, self.size_bytes = _whole_lines(path)
            os.ftruncate(self._fd, self.size_bytes)
            _disk.sync(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._durable_bytes = self.size_bytes
        self._syncing: asyncio.Future[None] | None = None

    async def append(self, line: bytes) -> None:
        """Return when the line is on the medium. Raises OSError; what the file had before stands."""
        try:
            write_whole(self._fd, line, self.size_bytes)
        except OSError:
            os.ftruncate(self._fd, self.size_bytes)
            raise
        self.size_bytes += len(line)
        mine = self.size_bytes
        while self._durable_bytes < mine:
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        size = self.size_bytes
        try:
            await asyncio.to_thread(_disk.sync, self._fd)
            self._durable_bytes = size
        finally:
            self._syncing = None

    def close(self) -> None:
        os.close(self._fd)


class Results:
    """Both files of a job. Make it in a thread."""

    def __init__(self, content: Content, job: Job) -> None:
        """Raises OSError; BlockingIOError when another process still writes them."""
        self._content = content
        self._output = Appended(content.path(job.output_id))
        try:
            self._errors = Appended(content.path(job.error_id))
            content.sync_names()
        except BaseException:
            self._output.close()
            raise
        self._answered = self._output.custom_ids
        self._failed = self._errors.custom_ids - self._answered

    @property
    def completed(self) -> int:
        return len(self._answered)

    @property
    def failed(self) -> int:
        return len(self._failed)

    @property
    def sizes_bytes(self) -> tuple[int, int]:
        """Of the output file and the error file."""
        return self._output.size_bytes, self._errors.size_bytes

    def has(self, custom_id: str) -> bool:
        """Whether this line has its result."""
        return custom_id in self._answered or custom_id in self._failed

    async def keep(self, custom_id: str, request_id: bytes, body: bytes) -> None:
        """An answer. Returns when it is on the medium; raises OSError when it is not kept."""
        self._content.check_space()
        await self._output.append(_response_line(custom_id, 200, request_id, body))
        self._answered.add(custom_id)

    async def refuse(self, custom_id: str, status: int, request_id: bytes, body: bytes) -> None:
        """A request that was refused, with the body of the refusal."""
        await self._errors.append(_response_line(custom_id, status, request_id, body))
        self._failed.add(custom_id)

    async def leave_out(self, custom_id: str, line_id: bytes, error: LineError) -> None:
        """A request that was not run."""
        result = Result(text_from_id(line_id, "batch_req"), custom_id, None, error)
        await self._errors.append(msgspec.json.encode(result) + b"\n")
        self._failed.add(custom_id)

    def close(self) -> None:
        self._output.close()
        self._errors.close()


def _response_line(custom_id: str, status: int, request_id: bytes, body: bytes) -> bytes:
    if b"\n" in body:
        body = msgspec.json.format(body, indent=-1)
    response = Response(status, text_from_id(request_id), msgspec.Raw(body) if body else _NULL)
    return msgspec.json.encode(Result(text_from_id(request_id, "batch_req"), custom_id, response, None)) + b"\n"


def _whole_lines(path: Path) -> tuple[set[str], int]:
    """The custom ids of all whole lines, and where the last one ends: a line torn by a crash was never kept."""
    found: set[str] = set()
    end = 0
    with path.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                found.add(_decode_known(raw).custom_id)
            except msgspec.DecodeError:
                break
            end += len(raw)
    return found, end
