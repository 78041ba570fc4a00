"""What all workers know: the snapshot and the key table, told to those that connect and again whenever they change.

Owns who has been told what, and the bounded wait for those who have not said yet that they know. What a snapshot says
is read by `snapshot`, how it travels is `ledger.telling`'s.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.records import Snapshot
from steelyard.ledger import wire
from steelyard.ledger.telling import frames_of
from steelyard.processes.key_register import KeyRegister
from steelyard.processes.outcome import Outcome
from steelyard.processes.teller_server import Session


class Publishing:
    """One per books process. `listeners` are all connections, `seats` those of workers."""

    def __init__(self, register: KeyRegister, snapshot: Snapshot) -> None:
        self._register = register
        self._moved = asyncio.Event()
        self._listeners: Collection[Session] = ()
        self._seats: Mapping[str, Session] = {}
        self._take(snapshot)

    def begin(self, listeners: Collection[Session], seats: Mapping[str, Session]) -> None:
        self._listeners, self._seats = listeners, seats
        self._register.on_moved = self._table_moved

    async def close(self) -> None:
        await self._register.close()

    @property
    def version(self) -> int:
        """The snapshot's."""
        return self._version

    @property
    def live_keys(self) -> int:
        return len(self._register.table)

    def greet(self, session: Session) -> None:
        """Tell one who has just connected; it knows when it reads the answer to its hello."""
        session.send_frames(self._frames)
        session.snapshot, session.keys = self._version, self._keys

    def tell(self, outcome: Outcome) -> None:
        """Tell everybody what a command has changed; right after its commit."""
        self._register.apply(outcome.keys)
        if outcome.snapshot is not None:
            self._take(outcome.snapshot)
            for session in self._listeners:
                session.send_frames(self._frames)

    async def known(self, outcome: Outcome) -> None:
        """Return when every connected worker has what the outcome changed: a new key works, a revoked one no longer,
        everywhere. Keys are in the table they share, so that most of the time nobody is waited for.

        A worker that does not say so within the bound is not waited for; it gets it all when it reads again.
        """
        await self._register.applied(outcome.keys)
        if outcome.snapshot is None and not outcome.keys:
            return
        version, keys = outcome.snapshot.version if outcome.snapshot else 0, self._keys
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.SNAPSHOT_KNOWN_S):
                while any(one.snapshot < version or one.keys != keys for one in self._seats.values()):
                    self._moved.clear()
                    await self._moved.wait()

    def session_moved(self) -> None:
        """A worker says that it knows more, or is gone."""
        self._moved.set()

    @property
    def _keys(self) -> str:
        return str(self._register.table.path)

    def _take(self, snapshot: Snapshot) -> None:
        self._snapshot, self._version = snapshot, snapshot.version
        self._frames = frames_of(snapshot, self._keys)

    def _table_moved(self, path: Path) -> None:
        self._take(self._snapshot)
        for session in self._listeners:
            session.send(wire.NOTICE, "keys", str(path))
