"""Opens the books' database, a SQLite file or PostgreSQL (storage.postgres), and brings its schema up to date.

Owns SQLite's pragmas (WAL, synchronous=FULL) and explicit transactions: a writer takes the write lock when it begins,
so a transaction never fails half-way for want of it. Knows no table. On `migrate` a new database gets the tables as
they are, and packaged migrations run on an older one.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    collate,
    create_engine,
    event,
    insert,
    inspect,
    text,
)
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError
from steelyard.storage import postgres, tables

_BUSY_TIMEOUT_MS = 5000
_CACHE_KIB = 64 * 1024  # the indexes' newest pages stay in memory
_CHECKPOINT_PAGES = 8 * 1024  # 32 MiB: a page that many batches change goes back into the file once
_REVISION = re.compile(r'^revision = "(\w+)"', re.MULTILINE)
_DOWN_REVISION = re.compile(r'^down_revision = "(\w+)"', re.MULTILINE)
_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32), nullable=False))
_VERSION.append_constraint(PrimaryKeyConstraint("version_num", name="alembic_version_pkc"))
# Said for what the driver would look for in vain: a fifth of the time that it takes to write a usage row.
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(bytes, bytes)


def open_database(place: Path | DatabaseUrl, *, readonly: bool = False) -> Engine:
    """An engine over the file at a path (a writer creates it) or over the database at a postgresql:// URL.

    A transaction of a reader sees one snapshot. Raises StartError when it cannot be opened.
    """
    if isinstance(place, DatabaseUrl):
        return postgres.open_postgres(place, readonly=readonly)
    return _open_file(place, readonly)


def _open_file(path: Path, readonly: bool) -> Engine:
    engine = create_engine("sqlite://", creator=_opener(path, readonly), poolclass=QueuePool, pool_size=2)
    _listen(engine, readonly)
    try:
        with engine.connect():
            pass
    except DatabaseError as error:
        engine.dispose()
        raise StartError(_sentence(path, error)) from None
    return engine


def _opener(path: Path, readonly: bool) -> Callable[[], sqlite3.Connection]:
    address = f"file:{quote(str(path.absolute()))}?mode={'ro' if readonly else 'rwc'}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)

    return connect


def _listen(engine: Engine, readonly: bool) -> None:
    begin = "BEGIN" if readonly else "BEGIN IMMEDIATE"

    def set_pragmas(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        if not readonly:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")

    def begin_explicitly(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", set_pragmas)
    event.listen(engine, "begin", begin_explicitly)


def bytewise(connection: Connection, columns: Sequence[Column[Any]]) -> list[ColumnElement[Any]]:
    """What to order by so that texts come as Python sorts them, whatever collation a PostgreSQL database has."""
    if connection.dialect.name != "postgresql":
        return list(columns)
    return [collate(column, "C") if isinstance(column.type, String) else column for column in columns]


def migrate(engine: Engine) -> None:
    """Bring the schema up to date; from here on this process is the writer. Refuses what a newer version wrote."""
    if not _is_current(engine):
        try:
            if not _build(engine):
                upgrade(engine)
        except DBAPIError as error:
            if engine.dialect.name == "postgresql":
                raise StartError(postgres.sentence(engine, error)) from None
            raise StartError(_sentence(Path(str(engine.url.database or "steelyard.db")), error)) from None
    if engine.dialect.name == "postgresql":
        postgres.take_over(engine)


def _build(engine: Engine) -> bool:
    """Whether the database was empty: then it gets at once what the migrations come to, in a tenth of their time."""
    with engine.begin() as connection:
        if inspect(connection).get_table_names():
            return False
        tables.metadata.create_all(connection)
        _VERSION.create(connection)
        connection.execute(insert(_VERSION), [{"version_num": head} for head in packaged_heads()])
    return True


def upgrade(engine: Engine) -> None:
    """Run the packaged migrations that are missing."""
    from alembic import command  # half a second that the books pay only when there is something to do
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    settings = Config()
    settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(settings)
    known = {revision.revision for revision in scripts.walk_revisions()}
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_heads()
        if not set(current) <= known:
            raise StartError(
                "The books were written by a newer Steelyard. Install that version, or use another --data."
            )
        if set(current) != set(scripts.get_heads()):
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")


def _is_current(engine: Engine) -> bool:
    """Whether the schema is that of the newest packaged migration; False in doubt."""
    try:
        with engine.begin() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    except DatabaseError:
        return False
    return set(found) == packaged_heads()


def packaged_heads() -> set[str]:
    """Revisions that no other one follows (there is one), read from the scripts' first lines."""
    scripts = [path.read_text(encoding="utf-8") for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")]
    followed = {down for script in scripts for down in _DOWN_REVISION.findall(script)}
    return {revision for script in scripts for revision in _REVISION.findall(script)} - followed


def _sentence(path: Path, error: DBAPIError) -> str:
    reason = str(error.orig)
    if "full" in reason:
        return f"The disk is full: {path.name} cannot be written. Free some space and start again."
    if "locked" in reason:
        return f"{path.name} is locked by another program. Stop it and start again."
    if "readonly" in reason:
        return f"{path.name} is not writable. Check who owns the data directory."
    return f"{path.name} cannot be opened as the books' database: {reason}."
