"""`steelyard prices lint|diff|show|markup` at the terminal."""

from pathlib import Path

import pytest
from tests.unit.cli.conftest import Terminal

from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.vendor_books import vendor_book

PEAK, WEEKEND, HOLIDAY = "2026-11-26T10:00:00+08:00", "2026-11-28T10:00:00+08:00", "2026-10-01T10:00:00+08:00"


@pytest.fixture
def selling(terminal: Terminal) -> Terminal:
    """A terminal whose books sell deepseek-flash for 20 % more than it costs."""
    assert terminal("vendor", "add", "deepseek", "--markup", "20").code == 0
    return terminal


@pytest.mark.parametrize(
    ("moment", "peak"), [(PEAK, True), (WEEKEND, False), (HOLIDAY, False)], ids=["working day", "weekend", "holiday"]
)
def test_show_says_which_variant_counts_at_a_moment(selling: Terminal, moment: str, peak: bool) -> None:
    price, cost = selling("prices", "show", "deepseek-flash", "--at", moment, "--json").json
    assert (price["book"], cost["book"], cost["subject"]) == ("price", "cost", "deepseek")
    for found, by_peak, else_ in ((price, "2.4", "1.2"), (cost, "2", "1")):
        rows = {row["variant"]: (row["counts"], row["prices"]["input"]) for row in found["rows"]}
        assert rows == {"peak": (peak, by_peak), "": (not peak, else_)}


def test_show_names_version_source_and_next_change(selling: Terminal) -> None:
    said = selling("prices", "show", "deepseek-flash", "--at", PEAK).out
    assert "2026-11-26 04:00:00Z" in said  # noon in Beijing
    assert "cost at deepseek: version" in said and "api-docs.deepseek.com" in said
    assert "has no price and no cost" in selling("prices", "show", "deepseek-flash", "--at", "2020-01-01").out
    assert selling("prices", "show", "m", "--at", "some day").code == 2


def test_markup_prints_a_file_that_loads_and_then_changes_nothing(terminal: Terminal, tmp_path: Path) -> None:
    said = terminal("prices", "markup", "deepseek", "--percent", "20", "--model", "deepseek-flash")
    (draft,) = parse_price_file(said.out).tariffs
    (cost,) = [one for one in vendor_book("deepseek").costs if one.model == "deepseek-flash"]
    assert [one.when for one in draft.variants] == [one.when for one in cost.variants]
    file = tmp_path / "prices.toml"
    file.write_text(said.out)
    assert "new" in terminal("prices", "diff", str(file)).out
    assert terminal("prices", "load", str(file)).code == 0
    assert "nothing would change" in terminal("prices", "diff", str(file)).out
    file.write_text(said.out.replace('output = "4.8"', 'output = "5"'))
    (change,) = terminal("prices", "diff", str(file), "--json").json
    assert change["fate"] == "supersedes"
    assert change["lines"] == [{"variant": "", "meter": "output", "old": "4.8", "new": "5"}]


def test_a_rate_is_needed_for_another_currency(terminal: Terminal) -> None:
    said = terminal("prices", "markup", "openai", "--percent", "10", "--currency", "CNY")
    assert said.code == 2 and "[[rate]] from USD to CNY" in said.err


def test_several_files_are_checked_at_once(terminal: Terminal, tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = terminal("prices", "markup", "stepfun", "--percent", "10").out
        (tmp_path / f"{name}.toml").write_text(text)
    said = terminal("prices", "lint", str(tmp_path / "a.toml"), str(tmp_path / "b.toml"))
    assert said.out.count("is in order: 4 tariff versions.") == 2
