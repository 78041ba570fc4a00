"""One child process: started, heard until it says `ready`, told apart by how it ended, stopped.

Owns the pipes and the log file of a child. Its standard input stays open as long as this process lives: the end of it
tells the child that its parent is gone, so nothing outlives a killed supervisor. Knows no restart rule.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from steelyard.kernel import limits
from steelyard.kernel.errors import StartError


async def _nothing(greeting: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Service:
    """What to run and how to tell that it is well.

    `command` is asked anew at every start. `ready` gets what followed the word `ready` on the child's line. Secrets
    travel in `environment`, never in the command. Descriptors in `keep` are inherited and live as long as the child.
    What is `held` loads at once and then waits for a line on its standard input, which it gets when `held` returns; its
    time to become ready begins there.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[str], Awaitable[None]] = _nothing
    start_s: float = limits.START_S
    keep: tuple[int, ...] = ()
    held: Callable[[], Awaitable[object]] | None = None


class Child:
    """A started service. Use `start`; the log is `<logs>/<name>.log`."""

    def __init__(self, service: Service, process: Process, log: BinaryIO, log_start: int) -> None:
        self.service = service
        self._process = process
        self._log = log
        self._log_start = log_start
        self._output = process.stdout or asyncio.StreamReader()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, service: Service, logs: Path) -> "Child":
        """Start and wait for `ready`. Raises StartError with the child's own last line when it does not come."""
        log = open_log(logs / f"{service.name}.log")
        log_start = log.tell()
        try:
            process = await asyncio.create_subprocess_exec(
                *service.command(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env={**os.environ, **service.environment},
                start_new_session=True,  # Ctrl-C at the terminal reaches the supervisor alone
                pass_fds=service.keep,
                limit=limits.LOG_LINE_BYTES_MAX,
            )
        except OSError as error:
            log.close()
            raise StartError(f"{service.name} cannot be started: {error.strerror}.") from None
        child = cls(service, process, log, log_start)
        try:
            if service.held is not None:
                await child._hold(service.held)
            greeting = await asyncio.wait_for(child._await_ready(), service.start_s)
            child._reader = asyncio.ensure_future(child._keep_reading())
            await service.ready(greeting)
        except TimeoutError:
            await child.kill()
            raise StartError(f"{service.name} was not ready within {service.start_s:.0f} s.") from None
        except BaseException:  # whatever it was, also who is cancelled, nothing is left running
            await child.kill()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _hold(self, held: Callable[[], Awaitable[object]]) -> None:
        """Give it its word when that is time. One that has ended before gets none: it is heard at once."""
        word, end = asyncio.ensure_future(held()), asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait([word, end], return_when=asyncio.FIRST_COMPLETED)
            if word.done():
                word.result()
                if self._process.stdin is not None:
                    self._process.stdin.write(b"\n")
        finally:
            word.cancel()
            end.cancel()

    async def _await_ready(self) -> str:
        while True:
            try:
                line = await self._output.readline()
            except ValueError:  # a line beyond the limit is no `ready`
                continue
            if not line:
                await self.ended()
                raise StartError(self.last_words() or f"{self.service.name} did not start: {self.reason()}.")
            word, _, greeting = line.decode(errors="replace").strip().partition(" ")
            if word == "ready":
                return greeting
            self._write(line)

    async def _keep_reading(self) -> None:
        while True:
            with contextlib.suppress(ValueError):
                line = await self._output.readline()
                if not line:
                    return
                self._write(line)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop the reader, or the child would block
            self._log.write(line)

    async def ended(self) -> None:
        """Return when the process is gone."""
        await self._process.wait()

    def reason(self) -> str:
        """How it ended: `exit code 1`, `killed by SIGKILL`."""
        return reason_from_code(self._process.returncode)

    def last_words(self) -> str:
        """The last line it wrote to its log since this start; empty when there is none."""
        try:
            with Path(self._log.name).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - limits.LOG_LINE_BYTES_MAX))
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line), "")

    def keep_log_small(self) -> None:
        """Once its log has grown too large, it becomes `<name>.log.1`, and the child writes on in an empty one."""
        with contextlib.suppress(OSError):  # a full disk
            if os.fstat(self._log.fileno()).st_size > limits.LOG_BYTES_MAX:
                shutil.copyfile(self._log.name, f"{self._log.name}.1")
                self._log.truncate(0)  # whoever writes into it appends
                self._log_start = 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that is gone already does not mind."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, patience_s: float) -> bool:
        """SIGTERM, then SIGKILL after `patience_s`. True when it went by itself."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), patience_s)
        except TimeoutError:
            await self.kill()
            return False
        self.close()
        return True

    @property
    def killed(self) -> bool:
        """Whether a signal ended it; then its last log line says nothing about why."""
        return (self._process.returncode or 0) < 0

    def end(self) -> None:
        """SIGKILL; whoever waits for its end learns of it."""
        self.signal(signal.SIGKILL)

    async def kill(self) -> None:
        """SIGKILL and wait for the end."""
        self.end()
        await self.ended()
        self.close()

    def close(self) -> None:
        """Let go of the pipes and the log of a process that ended."""
        if self._reader is not None:
            self._reader.cancel()
        if self._process.stdin is not None:
            self._process.stdin.close()
        transport: asyncio.SubprocessTransport = self._process._transport  # type: ignore[attr-defined]
        transport.close()
        self._log.close()


def open_log(path: Path) -> BinaryIO:
    """The log of a child, at its end; one that has grown too large becomes `<name>.log.1` first."""
    try:
        if path.exists() and path.stat().st_size > limits.LOG_BYTES_MAX:
            path.replace(path.with_name(path.name + ".1"))
        log = path.open("ab", buffering=0)
    except OSError as error:
        raise StartError(f"The log {path} cannot be written: {error.strerror}.") from None
    log.seek(0, os.SEEK_END)
    return log


def reason_from_code(code: int | None) -> str:
    """A return code in words."""
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}"
