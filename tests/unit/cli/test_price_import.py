"""`steelyard prices import`: a file on stdout, remarks on stderr."""

import json
from pathlib import Path
from typing import Any

from steelyard.catalog.price_file import parse_price_file

TABLE = {
    "v/m": {"litellm_provider": "v", "mode": "chat", "input_cost_per_token": 1e-07, "output_cost_per_token": 6e-07},
    "v/p": {"litellm_provider": "v", "mode": "image_generation"},
}
PROVIDERS = [{"id": "v", "models": [{"id": "m", "prices": {"input_mtok": 0.1, "output_mtok": 0.6}}]}]


def test_a_table_becomes_a_file_that_loads(empty: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps(TABLE))
    said = empty("prices", "import", "litellm", str(table), "--book", "price", "--from", "2026-11-01")
    assert said.code == 0
    (draft,) = parse_price_file(said.out).tariffs
    assert (draft.subject, draft.currency) == ("m", "USD")
    assert [(line.meter.value, line.text) for line in draft.lines if line.meter.value != "cached_input"] == [
        ("input", "0.1"),
        ("output", "0.6"),
    ]
    assert "v/p: it is of the mode image_generation" in said.err


def test_the_same_from_the_other_file_into_a_file(empty: Any, tmp_path: Path) -> None:
    data, out = tmp_path / "data.json", tmp_path / "out.toml"
    data.write_text(json.dumps(PROVIDERS))
    asked = ("--provider", "v", "--upstream", "ours", "--book", "both", "--out", str(out), "--json")
    said = empty("prices", "import", "genai-prices", "--file", str(data), *asked)
    assert said.json == {"file": str(out), "entries": 1, "left": []}
    text = out.read_text()
    assert 'upstream = "ours"' in text and "[[price]]" in text and "[[cost]]" in text


def test_what_cannot_be(empty: Any, tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text("[]")
    assert "JSON object" in empty("prices", "import", "litellm", str(file)).err
    assert "--provider" in empty("prices", "import", "genai-prices", "--file", str(file)).err
    file.write_text("{")
    assert "is not JSON" in empty("prices", "import", "genai-prices", "--file", str(file)).err
    file.write_text("{}")
    assert "--upstream names one" in empty("prices", "import", "litellm", str(file), "--upstream", "u").err
    assert "cannot be read" in empty("prices", "import", "litellm", str(tmp_path / "none")).err


def test_conditions_come_through_to_the_books(empty: Any, tmp_path: Path) -> None:
    windows = [{"hours_utc": ["22:00-01:00"], "weekdays": [1]}, {"hours_utc": "00:00-00:00", "weekdays": [6, 7]}]
    row = TABLE["v/m"] | {"off_peak_pricing": {"input_cost_per_token": 5e-08, "windows": windows}}
    bands = TABLE["v/m"] | {"input_cost_per_token_above_128k_tokens": 2e-07}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"v/hours": row, "v/bands": bands}))
    said = empty("prices", "import", "litellm", str(table), "--book", "both")
    found = {(draft.book, draft.model or draft.subject): draft for draft in parse_price_file(said.out).tariffs}
    for book in ("price", "cost"):
        (over,) = found[book, "bands"].variants
        assert (over.name, over.when.input_over, over.lines[0].text) == ("> 128k", 128_000, "0.2")
        first, second = found[book, "hours"].variants
        assert (first.when.zone, first.when.days, first.when.hours) == ("UTC", ("mon",), ((22 * 60, 24 * 60), (0, 60)))
        assert (second.when.days, second.when.hours, second.lines[0].text) == (("sat", "sun"), (), "0.05")
