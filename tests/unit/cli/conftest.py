"""A data directory with books in it, and the command line run in this process."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.ledger import Requests, books

from steelyard.cli.main import run
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.ids import text_from_id
from steelyard.ledger.posting import post
from steelyard.metering.journal import Journal
from steelyard.processes.office import Office


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """`steelyard …` on one data directory."""

    def __init__(self, data: DataDir, capture: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self.request_id = ""
        self._capture = capture

    def __call__(self, *arguments: str) -> Said:
        self._capture.readouterr()
        code = run([*arguments, "--data", str(self.data.root)])
        said = self._capture.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(code, said.out, said.err)


@pytest.fixture
def empty(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal whose data directory does not exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "STEELYARD_DATA", "STEELYARD_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return Terminal(DataDir(tmp_path / "data"), capsys)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Books of acme and beta with 5 CNY each, a key, and one served request of acme, whose id comes with them."""
    path = tmp_path_factory.mktemp("books") / "steelyard.db"
    clock = SystemClock()
    engine = books(path)
    Office(engine, clock).command("key.add", {"tenant": "acme", "name": "backend"})
    rated = Requests().rated()
    with engine.begin() as connection:
        post(connection, [rated], {}, clock)
    engine.dispose()
    journal = Journal.create(path.parent / "journal" / "w0-1", segment_bytes=1 << 16)
    journal.append(rated.settlement.opened)
    journal.append(rated.settlement.closed)
    journal.close()
    assert not path.with_name("steelyard.db-wal").exists(), "all of it is in the one file"
    return path, text_from_id(rated.settlement.opened.request_id)


@pytest.fixture
def terminal(empty: Terminal, template: tuple[Path, str]) -> Terminal:
    """A terminal on a copy of the template."""
    path, empty.request_id = template
    empty.data.prepare()
    shutil.copy(path, empty.data.database)
    shutil.copytree(path.parent / "journal", empty.data.journals, dirs_exist_ok=True)
    return empty
