"""What a process writes to its log."""

import ast
import errno
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import steelyard.processes
from steelyard.processes import logs

SECRET = "sk-sy-" + "q" * 32


@pytest.fixture
def log() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_an_error_shows_where_it_came_from_and_no_variable(log: None, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(authorization: str) -> None:
        raise LookupError("nothing of the sort")

    logs.to_stderr()
    try:
        refuse(SECRET)
    except LookupError:
        structlog.get_logger().exception("request_failed", request="req_1")
    said = capsys.readouterr()
    assert said.out == ""
    assert "request_failed" in said.err and "in refuse" in said.err and "nothing of the sort" in said.err
    assert SECRET not in said.err


def test_a_line_for_which_there_is_no_room_ends_nothing(log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that said why it would end, on a full disk, did not end."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    logs.to_stderr()
    structlog.get_logger().error("journal_failed")


def test_every_process_that_logs_sets_its_log_up() -> None:
    """Each `main` of a process whose modules log: the worker and the books (engines and keepers print one line)."""
    folder = Path(steelyard.processes.__file__).parent
    for name in ("worker.py", "books.py"):
        main = next(
            node
            for node in ast.parse((folder / name).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == "main"
        )
        assert "to_stderr()" in ast.unparse(main), name
