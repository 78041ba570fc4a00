"""The page of settings says what the program takes."""

from pathlib import Path

import pytest

from steelyard.config import Settings, load_settings
from steelyard.kernel.errors import StartError

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_setting_has_its_row_in_order() -> None:
    fields = Settings.model_fields
    assert [row[0].strip("| `") for row in ROWS] == list(fields)
    for name, environment, default, meaning in ROWS:
        field = fields[name.strip("| `")]
        assert environment == f"`STEELYARD_{name.strip('| `').upper()}`"
        assert meaning.removesuffix(" |") == field.description
        if not field.default_factory:
            shown = "" if str(field.default or "") == "" else f"`{field.default}`"
            assert default.lower() == shown.lower()


def test_durability_is_one_of_two_words() -> None:
    assert load_settings().durability == "normal"
    assert load_settings(durability="strict").durability == "strict"
    with pytest.raises(StartError, match="durability"):
        load_settings(durability="paranoid")
