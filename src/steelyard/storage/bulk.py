"""Many rows at once, by the quickest road of each database: the only SQL that is written by hand for a driver.

Owns the statements that posting sends thousands of rows through, past SQLAlchemy: its way around a statement takes
longer than most of them run. Rows are tuples in the order of the named columns and are written in the caller's
transaction. Knows no rule of money; table and column names are the caller's own, not a user's.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from sqlalchemy import Connection, Dialect, LargeBinary, Select, String, Table
from sqlalchemy.exc import DBAPIError

_PARAMETERS_MAX = 1000  # of one statement in SQLite
Rows = Sequence[Sequence[Any]]


class Bulk(Protocol):
    """One database's way to write many rows. Nothing happens for no rows."""

    def insert(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        """Rows that are not there yet, one after the other."""

    def ask(self, connection: Connection, query: Select[Any]) -> Rows:
        """What a query without parameters, which was made once, finds now."""

    def find(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        values: Sequence[Any],
        also: tuple[str, str] | None = None,
    ) -> Rows:
        """These columns of the rows that have one of the values in the first of them, and the text of `also` in its
        column."""

    def put(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        """Rows by primary key: what is there is replaced."""

    def add(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        """Rows by primary key, each key once: to what is there the columns outside the key are added."""

    def increase(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        """Rows that are all there, by primary key: the columns outside the key are added to them."""


def bulk(connection: Connection) -> Bulk:
    """The way of this connection's database."""
    return _WAYS[connection.dialect.name]


class _SQLite:
    """`executemany` of one prepared statement; of many rows, as many in each run of it as it has parameters for."""

    def insert(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        at_once = _PARAMETERS_MAX // len(columns)
        alone = len(rows) % at_once
        one, many = _insert(table, tuple(columns)), _insert(table, tuple(columns), at_once)
        with _past_sqlalchemy(connection, one) as session:
            session.executemany(one, rows[:alone])
            parts = (rows[start : start + at_once] for start in range(alone, len(rows), at_once))
            session.executemany(many, (tuple(chain.from_iterable(part)) for part in parts))

    def ask(self, connection: Connection, query: Select[Any]) -> Rows:
        statement = _written(query, connection.dialect)
        with _past_sqlalchemy(connection, statement) as session:
            return _all(session.execute(statement))

    def find(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        values: Sequence[Any],
        also: tuple[str, str] | None = None,
    ) -> Rows:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(values), _PARAMETERS_MAX):
            some = values[start : start + _PARAMETERS_MAX]
            statement = _select_in(table, tuple(columns), ", ".join("?" * len(some)), also and also[0], "?")
            with _past_sqlalchemy(connection, statement) as session:
                found += session.execute(statement, (*some, also[1]) if also else tuple(some)).fetchall()
        return found

    def put(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        statement = _insert(table, tuple(columns)) + on_conflict(table, tuple(columns), add=False)
        self._send(connection, statement, rows)

    def add(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        statement = _insert(table, tuple(columns)) + on_conflict(table, tuple(columns), add=True)
        self._send(connection, statement, rows)

    def increase(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        self._send(connection, _increase_one(table, tuple(columns)), rows)

    def _send(self, connection: Connection, statement: str, rows: Rows) -> None:
        if rows:
            with _past_sqlalchemy(connection, statement) as session:
                session.executemany(statement, rows)


class _PostgreSQL:
    """COPY for rows that are not there yet; one statement over arrays, a column each, for the others."""

    def insert(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        statement = f'COPY "{table.name}" ({listed(columns)}) FROM STDIN'
        with (
            _past_sqlalchemy(connection, statement) as session,
            session.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def ask(self, connection: Connection, query: Select[Any]) -> Rows:
        statement = _written(query, connection.dialect)
        with _past_sqlalchemy(connection, statement) as session:
            return _all(session.execute(statement))

    def find(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[str],
        values: Sequence[Any],
        also: tuple[str, str] | None = None,
    ) -> Rows:
        if not values:
            return []
        statement = _select_among(table, tuple(columns), also and also[0])
        among = _array_text(table, columns[0], values)
        with _past_sqlalchemy(connection, statement) as session:
            return _all(session.execute(statement, (among, also[1]) if also else (among,)))

    def put(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        statement = _insert_arrays(table, tuple(columns)) + on_conflict(table, tuple(columns), add=False)
        self._send(connection, table, columns, (statement, rows))

    def add(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        statement = _insert_arrays(table, tuple(columns)) + on_conflict(table, tuple(columns), add=True)
        self._send(connection, table, columns, (statement, rows))

    def increase(self, connection: Connection, table: Table, columns: Sequence[str], rows: Rows) -> None:
        self._send(connection, table, columns, (_increase_arrays(table, tuple(columns)), rows))

    def _send(self, connection: Connection, table: Table, columns: Sequence[str], what: tuple[str, Rows]) -> None:
        statement, rows = what
        if rows:
            arrays = [_array_text(table, *one) for one in zip(columns, zip(*rows, strict=True), strict=True)]
            with _past_sqlalchemy(connection, statement) as session:
                session.execute(statement, arrays)


@contextmanager
def _past_sqlalchemy(connection: Connection, statement: str) -> Iterator[Any]:
    """The driver's own session; what it raises is told here as SQLAlchemy tells it."""
    driver = connection.dialect.loaded_dbapi
    if not connection.in_transaction():
        connection.begin()
    session: Any = connection.connection.driver_connection
    try:
        yield session
    except driver.Error as error:
        lost = connection.dialect.is_disconnect(error, session, None)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement, None, error, driver.Error, connection_invalidated=lost, dialect=connection.dialect
        ) from error


def key_of(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key)


def _all(cursor: Any) -> Rows:
    rows: Rows = cursor.fetchall()
    return rows


@lru_cache(maxsize=64)
def _written(query: Select[Any], dialect: Dialect) -> str:
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _select_in(table: Table, columns: tuple[str, ...], values: str, also: str | None, mark: str) -> str:
    more = f' AND "{also}" = {mark}' if also else ""
    return f'SELECT {listed(columns)} FROM "{table.name}" WHERE "{columns[0]}" IN ({values}){more}'  # noqa: S608 - as above


@lru_cache(maxsize=64)
def _select_among(table: Table, columns: tuple[str, ...], also: str | None) -> str:
    return _select_in(table, columns, f"SELECT {_arrays(table, columns[:1])}", also, "%s")


def listed(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


@lru_cache(maxsize=64)
def on_conflict(table: Table, columns: tuple[str, ...], *, add: bool) -> str:
    """What follows an insert of rows that may be there; both databases read it."""
    key = key_of(table)
    before = f'"{table.name}".' if add else ""
    sets = [
        f'"{name}" = {before}"{name}" + excluded."{name}"' if add else f'"{name}" = excluded."{name}"'
        for name in columns
        if name not in key
    ]
    return f" ON CONFLICT ({listed(key)}) DO UPDATE SET {', '.join(sets)}"


@lru_cache(maxsize=64)
def _insert(table: Table, columns: tuple[str, ...], rows: int = 1) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f'INSERT INTO "{table.name}" ({listed(columns)}) VALUES {", ".join([row] * rows)}'  # noqa: S608 - our own names


@lru_cache(maxsize=64)
def _increase_one(table: Table, columns: tuple[str, ...]) -> str:
    """Numbered parameters, because the key comes first in a row and last in the statement."""
    key = key_of(table)
    numbered = {name: f"?{index}" for index, name in enumerate(columns, 1)}
    sets = [f'"{name}" = "{name}" + {numbered[name]}' for name in columns if name not in key]
    where = [f'"{name}" = {numbered[name]}' for name in key]
    changes, match = ", ".join(sets), " AND ".join(where)
    return f'UPDATE "{table.name}" SET {changes} WHERE {match}'  # noqa: S608 - names of our own tables


def _arrays(table: Table, columns: Sequence[str]) -> str:
    from sqlalchemy.dialects import postgresql  # a tenth of a second that SQLite's books can spare

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = (table.c[name].type.compile(dialect=dialect) for name in columns)
    return f"unnest({', '.join(f'%t::{kind}[]' for kind in types)})"


def _array_text(table: Table, column: str, values: Iterable[Any]) -> str:
    """An array as PostgreSQL reads it, none of it null: the driver's own way there costs as much as all the rest."""
    kind = table.c[column].type
    if isinstance(kind, LargeBinary):
        texts: Iterable[str] = (f'"\\\\x{value.hex()}"' for value in values)
    elif isinstance(kind, String):
        texts = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    else:
        texts = map(str, values)
    return "{" + ",".join(texts) + "}"


@lru_cache(maxsize=64)
def _insert_arrays(table: Table, columns: tuple[str, ...]) -> str:
    return f'INSERT INTO "{table.name}" ({listed(columns)}) SELECT * FROM {_arrays(table, columns)}'  # noqa: S608 - as above


@lru_cache(maxsize=64)
def _increase_arrays(table: Table, columns: tuple[str, ...]) -> str:
    key, name = key_of(table), table.name
    changes = ", ".join(f'"{one}" = "{name}"."{one}" + more."{one}"' for one in columns if one not in key)
    match = " AND ".join(f'"{name}"."{one}" = more."{one}"' for one in key)
    more = f"{_arrays(table, columns)} AS more ({listed(columns)})"
    return f'UPDATE "{name}" SET {changes} FROM {more} WHERE {match}'  # noqa: S608 - as above


_WAYS: dict[str, Bulk] = {"sqlite": _SQLite(), "postgresql": _PostgreSQL()}
