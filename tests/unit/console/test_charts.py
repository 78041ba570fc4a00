"""Charts: markup a browser can draw, people can hear, and nobody can break out of."""

from xml.etree import ElementTree

import pytest

from steelyard.console.charts import Column, beam, column_chart, nice_top

SVG = "{http://www.w3.org/2000/svg}"


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (7, 8), (9, 10), (11, 20), (430, 500), (10**12 + 1, 2 * 10**12)]
)
def test_the_axis_ends_on_a_round_number(value: int, top: int) -> None:
    assert nice_top(value) == top


def test_bars_are_true_to_their_values() -> None:
    chart = column_chart("k", "T", "D", [Column("a", "a: 5", 5), Column("b", "b: 10", 10), Column("c", "c: 0", 0)])
    heights = [int(bar.get("height", "")) for bar in parsed(chart.svg).iter(f"{SVG}rect") if bar.get("class") == "bar"]
    assert chart.top == 10
    assert heights == [500, 1000, 0]


def test_a_value_that_is_not_nothing_stays_visible() -> None:
    chart = column_chart("k", "T", "D", [Column("a", "a", 1), Column("b", "b", 1_000_000)])
    first = next(bar for bar in parsed(chart.svg).iter(f"{SVG}rect") if bar.get("class") == "bar")
    assert int(first.get("height", "")) > 0


def test_a_chart_is_named_and_described() -> None:
    svg = parsed(column_chart("k", "Requests", "Ten in all", [Column("a", "a: 1", 1, 2)]).svg)
    ids = {node.get("id"): node.text for node in svg.iter() if node.get("id")}
    assert svg.get("role") == "img"
    assert [ids[key] for key in str(svg.get("aria-labelledby")).split()] == ["Requests", "Ten in all"]
    assert svg.find(f"{SVG}path") is not None


def test_an_empty_chart_is_still_a_chart() -> None:
    assert parsed(column_chart("k", "T", "D", []).svg).tag == f"{SVG}svg"


def test_texts_cannot_break_out_of_the_markup() -> None:
    nasty = '"><script>alert(1)</script>'
    chart = column_chart("k", nasty, nasty, [Column(nasty, nasty, 1)])
    assert "<script" not in chart.svg
    assert "<script" not in beam("k", nasty, nasty, 2, 1)


def test_nothing_is_styled_inline() -> None:
    assert "style=" not in column_chart("k", "T", "D", [Column("a", "a", 1, 1)]).svg + beam("k", "T", "D", 2, 1)


@pytest.mark.parametrize(
    ("revenue", "cost", "state", "width"),
    [(100, 25, "gain", 250), (100, 0, "gain", 5), (100, 400, "loss", 1000), (0, 5, "loss", 1000), (0, 0, "idle", 5)],
)
def test_the_poise_stands_where_the_cost_has_eaten_to(revenue: int, cost: int, state: str, width: int) -> None:
    svg = parsed(beam("k", "T", "D", revenue, cost))
    eaten = next(node for node in svg.iter(f"{SVG}rect") if node.get("class") == "eaten")
    assert svg.get("class") == f"beam {state}"
    assert int(eaten.get("width", "")) == width
