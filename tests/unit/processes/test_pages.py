"""The worker's own way to the books, for pages."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import CallerError
from steelyard.processes.pages import PageHouse


def test_books_that_cannot_be_read_are_a_503(tmp_path: Path) -> None:
    """A page said that something had gone wrong on our side, and the log got a traceback for each look."""
    nobody: Any = SimpleNamespace(clock=SystemClock())
    (tmp_path / "steelyard.db").touch()
    house = PageHouse(nobody, nobody, DataDir(tmp_path), nobody)
    with pytest.raises(CallerError) as refused, house.books() as connection:
        connection.execute(text("SELECT 1 FROM batches"))
    assert (refused.value.status, refused.value.code) == (503, "books_unavailable")
    with pytest.raises(CallerError) as refused, house.books() as connection:
        connection.execute(text("SELECT :number"), {"number": 2**63})
    assert refused.value.status == 400
    house.close()
