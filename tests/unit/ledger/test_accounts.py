"""The chart of accounts: names, kinds, and that docs/explain/ledger.md says the same."""

import re
from pathlib import Path

import pytest

from steelyard.kernel.errors import BooksError
from steelyard.ledger.accounts import (
    CASH,
    CHART,
    EXPENSE_CPU,
    PAIRS,
    REVENUE,
    WALLET,
    account_name,
    balance_nano,
    kind_of,
)
from steelyard.ledger.verify import TITLES

_PAGE = Path(__file__).parents[3] / "docs" / "explain" / "ledger.md"


def _section(title: str) -> str:
    return _PAGE.read_text(encoding="utf-8").split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def _rows(title: str) -> list[list[str]]:
    lines = [line for line in _section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_page_has_every_account_with_its_meaning() -> None:
    chart = [
        [f"{kind.name}:{{{kind.part}}}" if kind.part else kind.name, str(kind.side), kind.sort, kind.meaning]
        for kind in CHART
    ]
    assert _rows("Accounts") == chart


def test_the_page_has_every_fact_with_its_accounts() -> None:
    assert _rows("Facts") == [[fact.value, debit.name, credit.name] for fact, (debit, credit) in PAIRS.items()]


def test_the_page_has_the_invariants_that_are_verified() -> None:
    assert dict(re.findall(r"- \*\*(I\d+)\*\* – (.+)", _section("Invariants"))) == TITLES


def test_the_page_has_both_promises() -> None:
    section = _section("Two promises")
    assert "**Process crash: exact.**" in section
    assert "**Power loss: durable to the last group commit.**" in section


def test_names_follow_the_chart() -> None:
    assert account_name(WALLET, "acme") == "wallet:acme"
    assert account_name(CASH) == "cash"
    assert kind_of("expense-cpu:local") is EXPENSE_CPU
    for name in ("wallets:acme", "", "Wallet:acme"):
        with pytest.raises(BooksError):
            kind_of(name)


def test_a_name_needs_its_part_and_must_fit() -> None:
    for kind, part in ((WALLET, ""), (CASH, "x"), (REVENUE, "m" * 200)):
        with pytest.raises(BooksError):
            account_name(kind, part)


def test_a_balance_is_on_the_normal_side() -> None:
    assert balance_nano(WALLET, 3, 10) == 7
    assert balance_nano(CASH, 10, 3) == 7
