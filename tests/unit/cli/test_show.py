"""Tables in terminals of the usual width: names may be broken there, amounts may not."""

from io import StringIO

import pytest

from steelyard.cli.show import Show, count, joules, money, percent, words

COLUMNS = (
    words("Model", "name"),
    count("Requests", "requests"),
    money("Charge", "charge"),
    money("Cost", "cost"),
    money("Margin", "margin"),
    percent("Margin %", "margin", "charge"),
    joules("Energy", "energy", "measured"),
)
ROW = {
    "name": "doubao-seed-2-1-pro-260915",
    "requests": 1_000,
    "charge": 157_464,
    "cost": 131_220,
    "margin": -26_244,
    "energy": 13_666_000,
    "measured": 0,
    "currency": "CNY",
}


def shown(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = StringIO()
    Show(False, stream).rows([ROW], COLUMNS, "nothing")
    return stream.getvalue().splitlines()


def test_a_narrow_terminal_breaks_names_and_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(80, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert "".join(line.split(" ")[0] for line in lines[2:]).endswith(str(ROW["name"]))
    for figure in ("1,000", "¥0.000157464", "¥0.00013122", "-¥0.000026244", "-16.7 %", "13.666 J"):
        assert any(figure in line for line in lines), figure


def test_one_that_has_no_room_for_figures_still_shows_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(40, monkeypatch)
    assert max(map(len, lines)) <= 40
    assert sum(line.count("4") for line in lines) == 4  # every digit is somewhere


def test_a_wide_one_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heading, row = shown(120, monkeypatch)
    assert heading.startswith("Model ") and str(ROW["name"]) in row and row.endswith("13.666 J modelled")
