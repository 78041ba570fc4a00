"""PostgreSQL as the books' database: one writer, fences, snapshots, and a password that nobody sees."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from tests.fakes.ledger import outside

from steelyard.kernel import limits
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError, WriterLost
from steelyard.storage import tables
from steelyard.storage.bulk import bulk
from steelyard.storage.database import bytewise, migrate, open_database
from steelyard.storage.postgres import has_password, shown

if TYPE_CHECKING:
    from tests.fakes.postgres import Server

SECRET = "correct-horse"
URL = DatabaseUrl(f"postgresql://books:{SECRET}@127.0.0.1:1/ledger?sslpassword={SECRET}")


@pytest.fixture
def url(postgres: "Server", monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseUrl]:
    monkeypatch.setattr(limits, "WRITER_AWAITED_MS", 100)
    with postgres.database() as url:
        yield url


@pytest.fixture
def writer(url: DatabaseUrl) -> Iterator[Engine]:
    engine = open_database(url)
    migrate(engine)
    yield engine
    engine.dispose()


def _cut(url: DatabaseUrl) -> None:
    """End the writer's session, as a lost network or a restart of the server does."""
    other = outside(url)
    with other.begin() as connection:
        query = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'steelyard books'"
        )
        assert connection.execute(text(query + " AND datname = current_database()")).scalars().all() == [True]
    other.dispose()


def test_there_is_one_writer(writer: Engine, url: DatabaseUrl) -> None:
    with pytest.raises(StartError, match="Another books process writes the database"):
        open_database(url)
    writer.dispose()
    open_database(url).dispose()


def test_readers_are_many_read_one_snapshot_and_cannot_write(writer: Engine, url: DatabaseUrl) -> None:
    reader = open_database(url, readonly=True)
    query = select(tables.counters.c.value).where(tables.counters.c.name == "epoch")
    with reader.connect() as connection, reader.connect() as another:
        assert connection.execute(query).all() == []
        with writer.begin() as writing:
            writing.execute(tables.counters.insert().values(name="epoch", value=7))
        assert connection.execute(query).all() == []
        assert another.execute(query).scalar_one() == 7
    with reader.connect() as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(tables.counters.insert().values(name="more", value=1))
    reader.dispose()


def test_a_lost_connection_is_made_again_with_its_lock(writer: Engine, url: DatabaseUrl) -> None:
    _cut(url)
    with writer.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).scalar_one() == 1
    with pytest.raises(StartError, match="Another books process"):
        open_database(url)


def test_who_was_cut_off_does_not_write_beside_the_next_writer(writer: Engine, url: DatabaseUrl) -> None:
    _cut(url)
    other = open_database(url)
    with pytest.raises(OperationalError), writer.connect():
        pass  # the lock is the other one's
    migrate(other)
    other.dispose()
    with pytest.raises(WriterLost), writer.connect():
        pass  # the lock is free, but what this process knows is old


def test_an_error_in_a_copy_is_told_as_sqlalchemy_tells_it(writer: Engine, url: DatabaseUrl) -> None:
    columns = ("journal", "segment", "offset")
    with pytest.raises(DBAPIError, match="duplicate key"), writer.begin() as connection:
        bulk(connection).insert(connection, tables.watermarks, columns, [("w0-1", 0, 1), ("w0-1", 0, 2)])
    with pytest.raises(DBAPIError) as lost, writer.begin() as connection:
        connection.execute(select(1))
        _cut(url)
        bulk(connection).insert(connection, tables.watermarks, columns, [("w0-1", 0, 1)])
    assert lost.value.connection_invalidated
    with writer.begin() as connection:
        bulk(connection).insert(connection, tables.watermarks, columns, [("w0-1", 0, 1)])


def test_sums_are_integers_and_a_fraction_is_refused(writer: Engine) -> None:
    with writer.connect() as connection:
        total = connection.execute(
            text("SELECT sum(x) FROM unnest(ARRAY[9223372036854775807, 1]) AS t(x)")
        ).scalar_one()
        assert (type(total), total) == (int, 2**63)
        with pytest.raises(ValueError, match="invalid literal"):
            connection.execute(text("SELECT avg(x) FROM unnest(ARRAY[1, 2]) AS t(x)")).scalar_one()


def test_texts_are_compared_as_python_does_whatever_the_collation(writer: Engine) -> None:
    table = Table("t", MetaData(), Column("name", String), Column("at_ns", BigInteger))
    with writer.connect() as connection:
        names, moments = bytewise(connection, list(table.c))
        assert "COLLATE" in str(names)
        assert "COLLATE" not in str(moments)


def test_nobody_sees_the_password() -> None:
    with pytest.raises(StartError) as refused:
        open_database(URL)
    told = [str(refused.value), repr(URL), str(URL), shown(URL)]
    assert not [one for one in told if SECRET in one]
    assert shown(URL) == "postgresql://books@127.0.0.1:1/ledger"
    assert refused.value.__cause__ is None
    assert has_password(URL)
    assert not has_password(DatabaseUrl("postgresql://books@127.0.0.1/ledger"))


@pytest.mark.parametrize("text_", [f"postgresql://books:{SECRET}@host:port/x", f"mysql://root:{SECRET}@h/x", SECRET])
def test_a_url_that_is_none_is_refused_without_showing_it(text_: str) -> None:
    with pytest.raises(StartError, match="postgresql://") as refused:
        open_database(DatabaseUrl(text_))
    assert SECRET not in str(refused.value)


def test_without_the_driver_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StartError, match=rf"{sys.executable} -m pip install 'steelyard\[postgres\]'"):
        open_database(URL)


def test_texts_and_bytes_of_any_kind_are_found_again(writer: Engine) -> None:
    names = ["plain", 'a "quoted" one', "back\\slash", "{br,ace}", "NULL", "", " ", "文\n\t", "it's", "%s"]
    with writer.begin() as connection:
        way, columns = bulk(connection), ("journal", "segment", "offset")
        way.put(connection, tables.watermarks, columns, [(name, 1, 2**62) for name in names])
        way.put(connection, tables.watermarks, columns, [(name, 2, 5) for name in names[:3]])
        found = way.find(connection, tables.watermarks, columns, [*names, "another"])
        assert sorted(found) == sorted((name, *((2, 5) if name in names[:3] else (1, 2**62))) for name in names)
        secrets = [("a", bytes(range(32))), ("b", b'"\\,{}')]
        way.put(connection, tables.secrets, ("name", "value"), secrets)
        assert sorted(way.find(connection, tables.secrets, ("value", "name"), [secret for _, secret in secrets])) == [
            (value, name) for name, value in secrets
        ]
