"""`steelyard vendor`: keys go in sealed and never come out."""

from io import StringIO

import pytest
from tests.unit.cli.conftest import Terminal

from steelyard.processes.snapshot import read_snapshot
from steelyard.storage.database import open_database
from steelyard.upstream.sealed import SECRET_VARIABLE, Master

KEY = "sk-0123456789abcdefghij-ab12"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def sealed(terminal: Terminal) -> dict[str, str]:
    engine = open_database(terminal.data.database, readonly=True)
    with engine.connect() as connection:
        return read_snapshot(connection).credentials


def test_a_key_from_standard_input_is_kept_sealed_and_never_said(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(f"{KEY}\n"))
    said = terminal("vendor", "key", "deepseek")
    assert said.code == 0 and "…ab12" in said.out and KEY not in said.out + said.err
    kept = sealed(terminal)
    assert Master(terminal.data.master).open(kept["deepseek"]) == KEY
    assert not any(KEY.encode() in file.read_bytes() for file in terminal.data.root.rglob("*") if file.is_file())


def test_a_new_key_takes_the_place_of_the_old_and_can_be_forgotten(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (KEY, "another"):
        monkeypatch.setenv("MY_KEY", key)
        assert terminal("vendor", "key", "deepseek", "--from-env", "MY_KEY").code == 0
    assert Master(terminal.data.master).open(sealed(terminal)["deepseek"]) == "another"
    assert terminal("vendor", "key", "deepseek", "--forget", "--json").json == {"dropped": True}
    assert terminal("vendor", "key", "deepseek", "--forget", "--json").json == {"dropped": False}
    assert not sealed(terminal)


def test_an_unset_variable_and_an_empty_key_are_refused(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    said = terminal("vendor", "key", "deepseek", "--from-env", "MY_KEY")
    assert said.code == 1 and "MY_KEY is not set" in said.err
    monkeypatch.setattr("sys.stdin", StringIO(""))
    said = terminal("vendor", "key", "deepseek")
    assert said.code == 2 and "not empty" in said.err


def test_the_books_take_no_key_in_the_clear(terminal: Terminal) -> None:
    from steelyard.cli.desk import Desk
    from steelyard.kernel.clock import SystemClock
    from steelyard.kernel.errors import CallerError

    with pytest.raises(CallerError) as refused:
        Desk(terminal.data, SystemClock()).command(
            "credential.set", {"upstream": "deepseek", "token": KEY, "shown": "set"}
        )
    assert refused.value.param == "token" and KEY not in refused.value.message
