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
