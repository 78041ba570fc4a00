"""A command's way to the books: over their socket while the platform runs, else by hand.

Owns that choice and the read-only connection reports are made from. Knows no command and no table. What only a
database needs is loaded with it: it would be a third of what a command over the socket takes.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from steelyard.cli.directory import directory_lock, is_held
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError, StartError, bad_request, unavailable
from steelyard.ledger import wire

if TYPE_CHECKING:
    from sqlalchemy import Connection

_RETRY_S = 0.05
_WAIT = "Its books do not answer yet: they may be replaying what a crash left. Try again in a moment."
_decode = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw]).decode


class Line:
    """A blocking connection to the books' socket, for commands only."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when nobody listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._number = 0
        with ExitStack() as unless_greeted:
            unless_greeted.callback(self._socket.close)
            self._socket.settimeout(limits.TELLER_REPLY_S)
            self._socket.connect(str(path))
            self._ask("hello", wire.Hello(None, os.getpid()))
            unless_greeted.pop_all()

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def command(self, op: str, payload: dict[str, Any], patience_s: float = limits.COMMAND_REPLY_S) -> Any:
        """The answer as plain values. Raises the office's CallerError, or BooksError when the books go away."""
        self._socket.settimeout(patience_s)
        try:
            return wire.decode_any(self._ask(op, payload))
        except OSError as error:
            raise BooksError(f"The books went away during '{op}' ({error}). Look whether it was done.") from None

    def _ask(self, op: str, payload: object) -> msgspec.Raw:
        self._number += 1
        self._socket.sendall(wire.frame(self._number, op, payload))
        while True:
            number, kind, answer = _decode(self._receive(int.from_bytes(self._receive(4), "little")))
            if number != self._number:  # a notice, such as a new snapshot
                continue
            if kind == wire.ERROR:
                raise wire.error_from(answer)
            return answer

    def _receive(self, length: int) -> bytes:
        if length > limits.SOCKET_MESSAGE_BYTES_MAX:
            raise BooksError("The books said something too long to be true.")
        received = bytearray()
        while len(received) < length:
            piece = self._socket.recv(length - len(received))
            if not piece:
                raise ConnectionError("connection closed")
            received += piece
        return bytes(received)


class Desk:
    """The books of one data directory."""

    def __init__(self, data: DataDir, clock: Clock) -> None:
        self.data = data
        self.clock = clock

    def command(self, op: str, payload: dict[str, Any] | None = None) -> Any:
        """Have a command of the office carried out. Raises CallerError, StartError or BooksError."""
        self._must_exist()
        line = self._line()
        if line is None:
            return self._by_hand(op, payload or {})
        with line:
            return line.command(op, payload or {})

    def _line(self) -> Line | None:
        """The line to the books, or None when no platform runs. Books that are just restarting are waited for."""
        deadline_ns = self.clock.monotonic_ns() + limits.TELLER_REPLY_S * NS_PER_S
        while True:
            try:
                return Line(self.data.socket)
            except TimeoutError:
                raise unavailable("books_unavailable", "The books do not answer. Try again in a moment.") from None
            except OSError:
                if not is_held(self.data) or self.clock.monotonic_ns() > deadline_ns:
                    return None
            time.sleep(_RETRY_S)

    def _by_hand(self, op: str, payload: dict[str, Any]) -> Any:
        from steelyard.processes.by_hand import carry_out

        with directory_lock(self.data, self.clock, _WAIT):
            return carry_out(self.data, self.clock, op, payload)

    @contextmanager
    def read(self) -> Iterator["Connection"]:
        """A read-only connection to the database."""
        from sqlalchemy import inspect
        from sqlalchemy.exc import DBAPIError

        from steelyard.storage.database import open_database

        self._must_exist()
        engine = open_database(self.data.database, readonly=True)
        try:
            with engine.connect() as connection:
                if not inspect(connection).has_table("batches"):
                    raise self._no_books()
                yield connection
        except OverflowError:
            raise bad_request("The books know no number as large as that.") from None
        except DBAPIError as error:
            raise BooksError(f"The books cannot be read: {error.orig}.") from None
        finally:
            engine.dispose()

    def _must_exist(self) -> None:
        database = self.data.database
        if isinstance(database, Path) and not database.exists():
            raise self._no_books()

    def _no_books(self) -> StartError:
        database = self.data.database
        if not isinstance(database, Path):
            from steelyard.storage.postgres import shown

            return StartError(f"There are no books in {shown(database)}. Start the platform with 'steelyard up'.")
        return StartError(
            f"There are no books in {self.data.root}. Start the platform there with "
            f"'steelyard up --data {self.data.root}', or name another directory with --data."
        )
