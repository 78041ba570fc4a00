"""Reads rows of somebody else's database: a SQLite file or a PostgreSQL URL, never written.

Knows no layout: whole rows by column name, so that a version with more or fewer columns is read as well.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from steelyard.kernel import limits
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError, bad_request
from steelyard.storage.database import open_database
from steelyard.storage.postgres import has_password

Row = dict[str, Any]


class Foreign:
    """Tables of one database, read in one snapshot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._names = set(inspect(connection).get_table_names())

    def rows(self, table: str, order_by: str = "id") -> list[Row]:
        """Every row of a table; none when there is no such table. Raises CallerError for more than are read."""
        if table not in self._names:
            return []
        quoted = self._connection.dialect.identifier_preparer.quote
        query = f"SELECT * FROM {quoted(table)} ORDER BY {quoted(order_by)} LIMIT {limits.IMPORT_ROWS_MAX + 1}"  # noqa: S608 - names of ours
        found = [dict(row) for row in self._connection.execute(text(query)).mappings()]
        if len(found) > limits.IMPORT_ROWS_MAX:
            raise bad_request(f"The table {table} has more than {limits.IMPORT_ROWS_MAX} rows.", "database")
        return found

    def refuse_without(self, tables: Sequence[str], what: str) -> None:
        """Raises StartError unless all of the tables are there."""
        if missing := [table for table in tables if table not in self._names]:
            raise StartError(f"This is no database of {what}: it has no table {', '.join(missing)}.")


@contextmanager
def foreign_database(place: str) -> Iterator[Foreign]:
    """The database at a path or postgresql:// URL. Raises StartError when it cannot be read."""
    if "://" in place:
        url = DatabaseUrl(place)
        if has_password(url):
            raise StartError(
                "A command line is seen by everybody on this machine, so the URL takes no password. "
                "Put it into PGPASSWORD or ~/.pgpass."
            )
        engine = open_database(url, readonly=True)
    elif not Path(place).is_file():
        raise StartError(f"There is no database file {place}.")
    else:
        engine = open_database(Path(place), readonly=True)
    try:
        with engine.connect() as connection:
            yield Foreign(connection)
    except DBAPIError as error:
        raise StartError(f"{place if '://' not in place else 'The database'} cannot be read: {error.orig}.") from None
    finally:
        engine.dispose()
