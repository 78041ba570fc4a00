"""`receipt export`, `receipt check` and `rerate` as a person uses them."""

from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.cli.conftest import Terminal

from steelyard.catalog.demo import demo_price_text
from steelyard.cli.main import run
from steelyard.storage.database import open_database

PRICES = """
[[price]]
model = "small"
currency = "CNY"
effective_from = 1970-01-01T00:00:00Z
per = "1 token"
input = "0.0000002"
cached_input = "0.0000001"
output = "0.0000015"
source = "agreed"
"""


def check(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = run(["receipt", "check", str(file)])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out + said.err


def test_an_exported_receipt_checks_without_any_books(
    terminal: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = terminal("receipt", "export", terminal.request_id)
    assert one.code == 0
    many = terminal("receipt", "export", "--tenant", "acme", "--since", "3000d")
    assert many.out == one.out
    file = tmp_path / "receipt.jsonl"
    file.write_text(one.out)
    code, said = check(file, capsys)
    assert code == 0
    assert terminal.request_id in said
    assert "can be recomputed" in said
    file.write_text(one.out.replace('"output_tokens":30', '"output_tokens":29'))
    code, said = check(file, capsys)
    assert code == 1
    assert "output_tokens is 29, its row says 30" in " ".join(said.split())


def test_what_cannot_be_exported_or_checked_is_one_line(
    terminal: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert terminal("receipt", "export").code == 2
    assert terminal("receipt", "export", "nonsense").code == 2
    assert terminal("receipt", "export", "req_" + "00" * 16).code == 2
    assert terminal("receipt", "export", "--tenant", "nobody").code == 2
    assert check(tmp_path / "missing", capsys)[0] == 1
    (tmp_path / "other").write_bytes(b"\x00\xff")
    code, said = check(tmp_path / "other", capsys)
    assert (code, said.count("\n")) == (2, 1)


def test_rerate_shows_first_and_posts_once(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(PRICES)
    engine = open_database(terminal.data.database)
    with engine.begin() as connection:  # the template's request is as old as the clock of its maker
        closed_ns = connection.execute(text("SELECT closed_ns FROM usage")).scalar_one()
    engine.dispose()
    assert closed_ns < 2 * 10**18
    period = ("--from", "1970-01-02", "--to", "2026-11-01", "--book", str(file))
    shown = terminal("rerate", *period, "--json")
    (line,) = shown.json["rerating"]["differences"]
    assert (line["tenant"], line["model"], line["requests"], line["unpriced"]) == ("acme", "small", 1, 0)
    assert line["charge_nano"] == 97_000
    assert line["rerated_nano"] == 100 * 200 + 20 * 100 + 30 * 1500
    assert line["difference_nano"] == line["wallet_nano"] == 67_000 - 97_000
    before = terminal("wallet", "show", "acme", "--json").json["balance_nano"]
    assert terminal("rerate", *period, "--post").code == 2, "a correction needs a reason"
    posted = terminal("rerate", *period, "--post", "--reason", "typing error", "--actor", "ada")
    assert posted.code == 0
    assert "Posted in batch" in posted.out
    assert terminal("wallet", "show", "acme", "--json").json["balance_nano"] == before + 30_000
    again = terminal("rerate", *period, "--post", "--reason", "typing error")
    assert "before" in again.out
    assert terminal("wallet", "show", "acme", "--json").json["balance_nano"] == before + 30_000
    assert terminal("verify").code == 0
    assert "typing error (ada)" in terminal("statement", "acme").out


def test_a_book_without_prices_and_a_period_back_to_front_are_refused(terminal: Terminal, tmp_path: Path) -> None:
    costs = "[[cost]]" + demo_price_text().split("[[cost]]")[1].partition("[[price]]")[0]
    (tmp_path / "costs.toml").write_text(costs)
    (tmp_path / "prices.toml").write_text(PRICES)
    assert terminal("rerate", "--from", "7d", "--to", "1d", "--book", str(tmp_path / "costs.toml")).code == 2
    assert terminal("rerate", "--from", "1d", "--to", "7d", "--book", str(tmp_path / "prices.toml")).code == 2
