"""`steelyard config`: the settings and where each came from."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import data_option, json_option
from steelyard.cli.show import Show, words
from steelyard.config import Settings, directory_of, load_settings
from steelyard.storage.postgres import shown

_COLUMNS = (
    words("Setting", "setting"),
    words("Value", "value"),
    words("From", "origin"),
    words("Meaning", "meaning"),
)


@click.group(
    cls=Listing,
    epilog=examples("steelyard config show", "STEELYARD_PORT=9000 steelyard config show --json"),
)
def config() -> None:
    """Settings: steelyard.toml, then STEELYARD_*, then options; each beats the one before."""


@config.command("show")
@data_option
@json_option
def config_show(data: Path | None, as_json: bool) -> None:
    """Every setting with its value and its origin."""
    options: dict[str, Any] = {"data": data}
    settings = load_settings(**options)
    origins = settings.origins(options)
    url = directory_of(settings).url
    values = settings.model_dump(mode="json") | {"database": shown(url) if url.text else ""}
    if not as_json:
        values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
    rows = [
        {"setting": name, "value": values[name], "origin": origins[name], "meaning": field.description}
        for name, field in Settings.model_fields.items()
    ]
    Show(as_json).rows(rows, _COLUMNS, "")
