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


def test_a_vendor_is_added_listed_shown_and_removed(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(f"{KEY}\n"))
    asked = ("--model", "deepseek-flash=chat", "--as", "ds", "--markup", "20", "--key-stdin")
    said = terminal("vendor", "add", "deepseek", *asked)
    assert said.code == 0 and "ds offers 1 model; 13 tariff versions loaded" in said.out
    assert KEY not in said.out + said.err and "no key yet" not in said.out and "not sold" not in said.out
    again = terminal("vendor", "add", "deepseek", *asked[:-1], "--json").json
    assert (again["inserted"], again["unchanged"], again["changed"]) == (0, 13, False)
    listed = terminal("vendor", "list").out
    assert "…ab12" in listed and KEY not in listed and "zhipu" in listed
    shown = terminal("vendor", "show", "ds").out
    assert "chat" in shown and "peak" in shown and "deepseek-chat" not in shown  # history is not what counts now
    assert [row["upstream"] for row in terminal("vendor", "list", "--json").json] == ["ds"]
    assert "1 offers at ds are withdrawn. Its key is forgotten." in terminal("vendor", "remove", "ds").out


def test_what_is_missing_after_adding_is_said(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEELYARD_UPSTREAM_KEY_STEPFUN", raising=False)
    said = terminal("vendor", "add", "stepfun").out
    assert "steelyard vendor key stepfun (or STEELYARD_UPSTREAM_KEY_STEPFUN)" in said
    assert "not sold yet: step-3.5-flash" in said and "--from-env" not in said
    monkeypatch.setenv("ARK_API_KEY", "sk-where-other-clients-look")
    said = terminal("vendor", "add", "ark", "--as", "doubao").out
    assert "steelyard vendor key doubao (or STEELYARD_UPSTREAM_KEY_DOUBAO)" in said
    assert "add --from-env ARK_API_KEY" in said and "sk-where" not in said


def test_a_shipped_book_can_be_read_before_it_is_added(terminal: Terminal) -> None:
    said = terminal("vendor", "show", "zhipu")
    assert "is not added" in said.out and "glm-4-plus" in said.out
    found = terminal("vendor", "show", "zhipu", "--json").json
    assert found["vendor"]["kind"] == "zhipu" and found["key"] is None
    said = terminal("vendor", "show", "nobody")
    assert said.code == 2 and "steelyard vendor add nobody" in said.err


def test_a_balance_is_asked_with_the_key_that_is_kept(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.upstream.balance import Balance
    from steelyard.upstream.kinds import ByKind

    keys = []

    async def balance(self: ByKind, offer: object) -> tuple[Balance, ...]:
        keys.append(self._api_key)
        return (Balance("CNY", "110.00", {"granted": "10.00"}),)

    monkeypatch.setattr(ByKind, "balance", balance)
    monkeypatch.setenv("MY_KEY", KEY)
    assert "steelyard vendor add deepseek" in terminal("vendor", "balance", "deepseek").err
    terminal("vendor", "add", "deepseek")
    terminal("vendor", "key", "deepseek", "--from-env", "MY_KEY")
    said = terminal("vendor", "balance", "deepseek").out
    assert "110.00" in said and "granted 10.00" in said and keys == [KEY]
    monkeypatch.setenv(SECRET_VARIABLE, "another secret of more than 32 characters")
    said = terminal("vendor", "balance", "deepseek")
    assert said.code == 1 and "another master key" in said.err and KEY not in said.err


def test_a_vendor_that_does_not_tell_its_balance_is_named(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.kernel.errors import UpstreamError
    from steelyard.upstream.kinds import ByKind

    async def balance(self: ByKind, offer: object) -> None:
        raise UpstreamError("ds", "answered 401: Authentication Fails (governor)", status=401)

    monkeypatch.setattr(ByKind, "balance", balance)
    terminal("vendor", "add", "deepseek", "--as", "ds")
    said = terminal("vendor", "balance", "ds")
    assert (said.code, said.err) == (1, "ds answered 401: Authentication Fails (governor).\n")
