"""The page of settings says what the program takes."""

from pathlib import Path

import pytest

from steelyard import config
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


@pytest.mark.parametrize(
    ("cpus", "given", "workers"),
    [
        (1, {}, 1),
        (2, {"engine": "none"}, 1),
        (8, {"engine": "none"}, 5),
        (8, {"engine": False}, 5),
        (8, {"engine": "xllamacpp", "threads": 4}, 2),
        (8, {"threads": 8}, 1),
        (200, {"engine": "none"}, 64),
        (8, {"workers": "3"}, 3),
    ],
)
def test_auto_is_as_many_workers_as_have_cpus(
    cpus: int, given: dict[str, object], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "cpus_allowed", lambda: cpus)
    assert load_settings(**({"workers": "auto"} | given)).workers == workers
    monkeypatch.setenv("STEELYARD_WORKERS", "AUTO")
    assert load_settings(**given).workers == workers
    with pytest.raises(StartError, match="workers"):
        load_settings(workers="many")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`STEELYARD_DATA=$UNSET steelyard up` made the books in the working directory."""
    for name in ("DATA", "PORT", "MODEL"):
        monkeypatch.setenv(f"STEELYARD_{name}", "")
    settings = load_settings()
    assert (settings.data, settings.port, settings.model) == (Path("steelyard-data"), 8780, None)
    assert settings.origins({})["data"] == "default"


def test_durability_is_one_of_two_words() -> None:
    assert load_settings().durability == "normal"
    assert load_settings(durability="strict").durability == "strict"
    with pytest.raises(StartError, match="durability"):
        load_settings(durability="paranoid")
