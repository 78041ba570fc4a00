"""Opens the books in PostgreSQL, through psycopg.

Owns what every session is told (isolation, read-only, time-outs) and the two fences of the one writer: a session lock
that lives and dies with the connection every write goes through, and a counter that tells a writer which lost its
connection whether somebody else wrote meanwhile. Knows no table but the counters. The URL's password never leaves here.
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Dialect, Engine, create_engine, event, insert, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from steelyard.kernel import limits
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError, WriterLost
from steelyard.kernel.extras import how_to_get
from steelyard.storage import tables

if TYPE_CHECKING:
    from psycopg import Connection as Session

DRIVER = "postgresql+psycopg"
_LOCK = int.from_bytes(b"books", "big")
_WRITER = "writer"
_LOST_SERVER_MS = 30_000  # after this long without an answer the other side is taken for dead, by client and server


def open_postgres(url: DatabaseUrl, *, readonly: bool = False) -> Engine:
    """An engine over the database at this URL. A writer is the only one, or StartError.

    Every transaction reads one snapshot (REPEATABLE READ). Numeric sums come back as integers.
    """
    parsed = _parsed(url)
    try:
        import psycopg  # noqa: F401 - an extra; without it SQLite is all there is
    except ImportError:
        raise StartError(f"PostgreSQL needs its driver: {how_to_get('steelyard[postgres]')}") from None
    tables.of_left.dialect_kwargs["postgresql_where"] = tables.LEFT
    engine = create_engine(
        parsed,
        isolation_level="REPEATABLE READ",
        pool_size=2 if readonly else 1,
        max_overflow=limits.READERS_MAX if readonly else 0,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=_session(readonly),
    )
    event.listen(engine, "connect", _integers_only)
    if not readonly:
        event.listen(engine, "do_connect", _connect_and_lock)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        raise StartError(sentence(engine, error)) from None
    return engine


def shown(url: DatabaseUrl) -> str:
    """The URL as it may be shown: without password and options."""
    return _shown(_parsed(url))


def has_password(url: DatabaseUrl) -> bool:
    parsed = _parsed(url)
    return parsed.password not in {None, ""} or "password" in parsed.query


def take_over(engine: Engine) -> None:
    """From here on this process is the writer; it learns from a new connection when another one was in between."""
    counters = tables.counters.c
    with engine.begin() as connection:
        mine = (_generation(connection) or 0) + 1
        if not connection.execute(update(tables.counters).where(counters.name == _WRITER).values(value=mine)).rowcount:
            connection.execute(insert(tables.counters).values(name=_WRITER, value=mine))

    def still_mine(session: "Session", _entry: ConnectionPoolEntry) -> None:
        found = session.execute("SELECT value FROM counters WHERE name = %s", (_WRITER,)).fetchone()
        session.rollback()
        if found != (mine,):
            session.close()
            raise WriterLost("Another process has written the books since the connection to PostgreSQL was lost.")

    event.listen(engine, "connect", still_mine)


def sentence(engine: Engine, error: DBAPIError) -> str:
    """What is wrong with the database, in one line."""
    place = _shown(engine.url)
    state = getattr(error.orig, "sqlstate", None)
    if state == "55P03":
        return f"Another books process writes the database {place}. Stop it first, or use another database."
    if state == "25006":
        return f"The database {place} takes no writes: it is a standby. Name the primary."
    reason = " ".join(str(error.orig).split())
    return f"The database {place} cannot be opened: {reason}."


def _parsed(url: DatabaseUrl) -> URL:
    try:
        parsed = make_url(url.text)
    except (ArgumentError, ValueError):
        raise StartError("The database's URL cannot be read. It looks like postgresql://user@host:5432/name.") from None
    if parsed.drivername not in {"postgresql", "postgres", DRIVER}:
        raise StartError("The database is a postgresql:// URL, or nothing for SQLite in the data directory.")
    return parsed.set(drivername=DRIVER)


def _shown(url: URL) -> str:
    bare = URL.create("postgresql", username=url.username, host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def _session(readonly: bool) -> dict[str, Any]:
    options = {
        "default_transaction_read_only": "on" if readonly else "off",
        "timezone": "UTC",
        "tcp_keepalives_idle": "10",  # a node that is gone must not keep the lock for hours
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": str(_LOST_SERVER_MS),
    }
    return {
        "application_name": "steelyard reader" if readonly else "steelyard books",
        "connect_timeout": limits.DATABASE_CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": _LOST_SERVER_MS,
        "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
    }


def _connect_and_lock(dialect: Dialect, _entry: ConnectionPoolEntry, args: list[Any], named: dict[str, Any]) -> Any:
    """A session that holds the writer's lock. It is free only when the session before is over, its last commit too."""
    session: Session = dialect.connect(*args, **named)  # type: ignore[assignment]
    try:
        session.execute(f"SET LOCAL lock_timeout = {limits.WRITER_AWAITED_MS}")
        session.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        if session.execute("SHOW synchronous_commit").fetchone() == ("off",):
            session.execute("SET synchronous_commit = on")  # what was answered must be on the disk
        session.commit()
    except BaseException:
        session.close()
        raise
    return session


def _integers_only(session: "Session", _entry: ConnectionPoolEntry) -> None:
    """A sum of bigints is numeric in PostgreSQL; here it is an integer as everywhere. A fraction is refused."""
    from psycopg.adapt import Buffer, Loader

    class Whole(Loader):
        def load(self, data: Buffer) -> int:
            return int(bytes(data))

    session.adapters.register_loader("numeric", Whole)


def _generation(connection: Connection) -> int | None:
    counters = tables.counters.c
    return connection.execute(select(counters.value).where(counters.name == _WRITER)).scalar_one_or_none()
