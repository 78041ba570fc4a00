"""The two files a job writes: answers in one, errors in the other, a line each in the shape of the Batch API.

A line counts as kept when it is on the medium; lines that come together share one sync. What an earlier worker kept is
read at the start, so a line that was charged is never run again. One writer at a time (flock).
"""

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from steelyard.jobs.content import Content, write_whole
from steelyard.jobs.records import Job
from steelyard.kernel import limits
from steelyard.kernel.ids import id_from_text, text_from_id
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


class _Ran(msgspec.Struct, frozen=True):
    request_id: str


class _Known(msgspec.Struct, frozen=True):
    custom_id: str
    response: _Ran | None = None


_decode_known = msgspec.json.Decoder(_Known).decode


class Appended:
    """A file that only grows, by whole lines. Use it from one loop; `open` blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with ExitStack() as unless_read:
            unless_read.callback(os.close, self._fd)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
            unless_read.pop_all()
        self._syncing: asyncio.Future[None] | None = None

    def _read(self) -> None:
        """Find the whole lines; a line torn by a crash was never kept."""
        self.custom_ids: set[str] = set()
        self.last: deque[bytes] = deque(maxlen=limits.LINES_IN_DOUBT_MAX)
        """Requests behind the last lines that were there already, the latest last."""
        self.size_bytes = 0
        with self._path.open("rb") as file:
            for raw in file:
                known = _known(raw)
                if known is None:
                    break
                self.custom_ids.add(known.custom_id)
                if known.response is not None:
                    self.last.append(id_from_text(known.response.request_id))
                self.size_bytes += len(raw)
        os.ftruncate(self._fd, self.size_bytes)
        _disk.sync(self._fd)
        self._durable_bytes = self.size_bytes

    def forget(self, request_ids: Collection[bytes]) -> None:
        """Take the lines of these requests out again: another file takes the place of this one. Blocks."""
        other = self._path.with_name(f"{self._path.name}.new")
        fd = os.open(other, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with ExitStack() as unless_replaced:
            unless_replaced.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = 0
            with self._path.open("rb") as file:
                for raw in file:
                    known = _known(raw)
                    ran = None if known is None else known.response
                    if ran is None or id_from_text(ran.request_id) not in request_ids:
                        write_whole(fd, raw, size)
                        size += len(raw)
            _disk.sync(fd)
            other.replace(self._path)
            _disk.sync_directory(self._path.parent)
            unless_replaced.pop_all()
        os.close(self._fd)
        self._fd = fd
        self._read()

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
        except OSError:  # whoever waits is told so: what nobody counts must not be found here later
            os.ftruncate(self._fd, self._durable_bytes)
            self.size_bytes = self._durable_bytes
            raise
        finally:
            self._syncing = None

    async def close(self) -> None:
        """Let it go once nobody syncs it any more: until then the lock would stay held."""
        try:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])
        finally:
            self.let_go()

    def let_go(self) -> None:
        os.close(self._fd)


class Results:
    """Both files of a job. Make it in a thread."""

    def __init__(self, content: Content, job: Job) -> None:
        """Raises OSError; BlockingIOError when another process still writes them."""
        self._content = content
        with ExitStack() as unless_opened:
            self._output = Appended(content.path(job.output_id))
            unless_opened.callback(self._output.let_go)
            self._errors = Appended(content.path(job.error_id))
            unless_opened.callback(self._errors.let_go)
            content.sync_names()
            unless_opened.pop_all()
        self._take()

    def _take(self) -> None:
        self._answered = self._output.custom_ids
        self._failed = self._errors.custom_ids - self._answered

    @property
    def last_answers(self) -> list[bytes]:
        """The requests whose answers were kept last before this one began."""
        return [*self._output.last]

    def forget_answers(self, request_ids: Collection[bytes]) -> None:
        """These were kept and never counted: their lines run again. Blocks."""
        self._output.forget(request_ids)
        self._take()

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

    async def leave_out(self, line_ids: Mapping[str, bytes], error: LineError) -> None:
        """Requests that were not run: custom id → an id for the line."""
        results = (Result(text_from_id(one, "batch_req"), name, None, error) for name, one in line_ids.items())
        await self._errors.append(b"".join(msgspec.json.encode(result) + b"\n" for result in results))
        self._failed.update(line_ids)

    async def close(self) -> None:
        try:
            await self._output.close()
        finally:
            await self._errors.close()


def _response_line(custom_id: str, status: int, request_id: bytes, body: bytes) -> bytes:
    if b"\n" in body:
        body = msgspec.json.format(body, indent=-1)
    response = Response(status, text_from_id(request_id), msgspec.Raw(body) if body else _NULL)
    return msgspec.json.encode(Result(text_from_id(request_id, "batch_req"), custom_id, response, None)) + b"\n"


def _known(raw: bytes) -> _Known | None:
    """What a line is about; None when it is not whole."""
    if not raw.endswith(b"\n"):
        return None
    try:
        return _decode_known(raw)
    except msgspec.DecodeError:
        return None
