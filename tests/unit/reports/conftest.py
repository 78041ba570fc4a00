"""Books on disk with the real schema, empty or busy. The busy ones are only read, so one lot serves every test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.reports.shop import Shop, busy_shop

from steelyard.storage.database import migrate, open_database


@contextmanager
def new_books(folder: Path) -> Iterator[Connection]:
    engine = open_database(folder / "steelyard.db")
    migrate(engine)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with new_books(tmp_path) as books:
        yield Shop.open(books)


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with new_books(tmp_path_factory.mktemp("busy")) as books:
        yield busy_shop(books)
