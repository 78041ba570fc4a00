"""`steelyard payables` and `steelyard reconcile` as a person types them."""

from pathlib import Path

import pytest
from tests.fakes.ledger import Requests
from tests.unit.cli.conftest import Terminal
from tests.unit.ledger.test_vendor_costs import NEAR, PAYABLE, sold

from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.settled import End
from steelyard.ledger.posting import post
from steelyard.storage.database import open_database


@pytest.fixture
def bill(terminal: Terminal) -> Path:
    """Of one request that was cut: the vendor counted more."""
    requests = Requests()
    one = sold(requests, NEAR, End.CLIENT_GONE)
    engine = open_database(terminal.data.database)
    with engine.begin() as connection:
        post(connection, [one], {}, requests.clock)
    engine.dispose()
    settlement = one.settlement
    name, closed = text_from_id(settlement.opened.request_id), iso_from_ns(settlement.closed.closed_ns)
    file = terminal.data.root.parent / "bill.csv"
    file.write_text(
        "request_id,time,model,prompt_tokens,cached_tokens,completion_tokens,amount,currency\n"
        f"{name},{closed},near-1,120,20,81,0.0004244,CNY\n"
    )
    return file


def test_a_bill_is_compared_posted_once_and_shown_in_what_is_payable(terminal: Terminal, bill: Path) -> None:
    assert terminal("payables", "--json").json == [
        {
            "vendor": "near", "currency": "CNY", "requests": 1, "payable_nano": PAYABLE, "payable": "0.0002244",
            "used_nano": PAYABLE, "used": "0.0002244", "estimated": 1, "estimated_nano": PAYABLE,
        }
    ]  # fmt: skip
    shown = terminal("reconcile", "near", str(bill))
    assert (shown.code, shown.err) == (0, "")
    for text in ("estimate trued up", "¥0.0002244", "¥0.0004244", "To adjust: ¥0.0002.", "0 places agree"):
        assert text in shown.out, shown.out
    assert terminal("reconcile", "near", str(bill), "--post").code == 2, "without a reason"
    posting = ("reconcile", "near", str(bill), "--post", "--reason", "bill of September", "--actor", "li")
    assert "Posted in batch" in terminal(*posting).out
    assert "This file was posted before" in terminal(*posting).out
    assert terminal("payables", "--json").json[0]["payable_nano"] == 424_400
    entries = terminal("ledger", "entries", "--account", "payable:near", "--json").json
    assert entries[0]["kind"] == "reconcile" and "bill of September (li)" in entries[0]["note"]
    again = terminal("reconcile", "near", str(bill), "--json").json["reconciliation"]
    assert (again["adjusted_before_nano"], again["adjust_nano"]) == (200_000, 0)


def test_what_cannot_be_compared_is_one_sentence(terminal: Terminal, bill: Path) -> None:
    for arguments, says in (
        (("nobody", str(bill)), "There is no upstream 'nobody'"),
        (("near", str(bill.with_name("none.csv"))), "cannot be read"),
        (("near", str(bill), "--zone", "Mars"), "no time zone"),
        (("near", str(bill), "--columns", "what=ever"), "FIELD=NAME"),
        (("near", str(bill), "--since", "2026-10-01", "--until", "2026-09-01"), "--until must be later"),
    ):
        said = terminal("reconcile", *arguments)
        assert said.code in {1, 2} and says in said.err, said


def test_nothing_is_owed_before_a_vendor_has_served(terminal: Terminal) -> None:
    assert "No vendor has served anything yet." in terminal("payables").out
