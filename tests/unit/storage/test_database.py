"""The database file: pragmas, migrations that build exactly the tables, and refusals in one clear line."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from steelyard.kernel.errors import StartError
from steelyard.storage import database
from steelyard.storage.database import migrate, open_database, packaged_heads, upgrade
from steelyard.storage.tables import metadata

if TYPE_CHECKING:
    from tests.fakes.postgres import Server


def _schema(engine: Engine) -> dict[str, list[str]]:
    """Every table and index with its clauses; their order within a table means nothing."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        return {row.name: _clauses(row.sql) for row in rows}


def _clauses(sql: str) -> list[str]:
    """What stands before the first parenthesis, then what commas part within it; added columns come behind keys."""
    head, _, body = sql.partition("(")
    clauses = re.split(r",\s+(?![^()]*\))", body.rpartition(")")[0])
    return [head.strip(), *sorted(clause.strip() for clause in clauses)]


_COLUMNS = """
SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, column_name
"""
_REST = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    "SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace ORDER BY conname, 1",
)


def test_migrations_build_exactly_the_tables_in_postgresql_too(postgres: "Server") -> None:
    with postgres.database(empty=True) as older, postgres.database(empty=True) as newer:
        migrated, created = open_database(older), open_database(newer)
        upgrade(migrated)
        migrate(created)
        with migrated.connect() as one, created.connect() as other:
            for query in (_COLUMNS, *_REST):
                assert one.execute(text(query)).all() == other.execute(text(query)).all()
            different = compare_metadata(MigrationContext.configure(one), metadata)
        assert [(what, one.name) for what, one in different] == [("add_fk", "fk_usage_batch_id")]  # SQLite's only
        migrated.dispose()
        created.dispose()


def test_migrations_build_exactly_the_tables(tmp_path: Path) -> None:
    migrated, created = open_database(tmp_path / "a.db"), open_database(tmp_path / "b.db")
    upgrade(migrated)
    migrate(created)
    assert _schema(migrated) == _schema(created)
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrated.dispose()
    created.dispose()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    migrate(engine)
    before = _schema(engine)
    migrate(engine)
    assert _schema(engine) == before
    engine.dispose()


def test_the_newest_revision_is_the_one_alembic_sees() -> None:
    scripts = ScriptDirectory(str(Path(database.__file__).parent / "migrations"))
    assert packaged_heads() == set(scripts.get_heads())


def test_a_new_database_and_a_current_one_load_no_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from steelyard.storage.database import migrate, open_database;"
        "engine = open_database(Path(sys.argv[1])); migrate(engine); migrate(engine); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.db")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_writer_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    engine.dispose()


def test_a_path_with_special_characters_opens(tmp_path: Path) -> None:
    path = tmp_path / "50% of? 帐#"
    path.mkdir()
    engine = open_database(path / "a.db")
    migrate(engine)
    assert (path / "a.db").exists()
    engine.dispose()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    writer = open_database(tmp_path / "a.db")
    migrate(writer)
    reader = open_database(tmp_path / "a.db", readonly=True)
    with reader.begin() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("INSERT INTO counters VALUES ('epoch', 1)"))
    reader.dispose()
    writer.dispose()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartError, match="newer Steelyard"):
        migrate(engine)
    engine.dispose()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database at all, only some text" * 100)
    with pytest.raises(StartError, match=r"a\.db cannot be opened"):
        open_database(tmp_path / "a.db")


def test_a_missing_file_is_refused_for_reading(tmp_path: Path) -> None:
    with pytest.raises(StartError):
        open_database(tmp_path / "a.db", readonly=True)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")

    @event.listens_for(engine, "begin")
    def few_pages(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=3")

    with pytest.raises(StartError, match="disk is full"):
        migrate(engine)
    engine.dispose()


_OLD_ROW = "SELECT cache_write, reasoning, estimated FROM usage", "SELECT cache_write, reasoning FROM rollups"


def _upgraded(engine: Engine) -> None:
    """Books as version 0011 left them, with a request in them; then what this version makes of them."""
    scripts = str(Path(database.__file__).parent / "migrations")
    settings = Config()
    settings.set_main_option("script_location", scripts)
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0011")
        request = (
            "0, 0, 1, 1, 1, 'm', 'u', 1, 1, 'CNY', 1, (1 = 1), 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 'complete', 1, 1, (1 = 0)"
        )
        nothing = "decode('', 'hex')" if engine.dialect.name == "postgresql" else "x''"
        connection.execute(text(
            f"INSERT INTO batches (id, posted_ns, kind, note, requests, previous_hash, hash)"
            f" VALUES (1, 0, 'usage', '', 1, {nothing}, {nothing})"
        ))  # fmt: skip
        connection.execute(text(f"INSERT INTO usage VALUES ({nothing}, 1, {request})"))
        connection.execute(text("INSERT INTO rollups VALUES ('hour', 0, 1, 'm', 'CNY', 1, 1, 1, 1, 1, 1, 1, 1)"))
    migrate(engine)
    with engine.connect() as connection:
        rows = [tuple(connection.execute(text(query)).one()) for query in _OLD_ROW]
    assert rows == [(0, 0, False), (0, 0)]


def test_rows_from_before_a_bucket_have_nothing_in_it(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "a.db")
    _upgraded(engine)
    engine.dispose()


def test_rows_from_before_a_bucket_have_nothing_in_it_in_postgresql_too(postgres: "Server") -> None:
    with postgres.database() as url:
        engine = open_database(url)
        _upgraded(engine)
        engine.dispose()
