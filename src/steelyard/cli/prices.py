"""`steelyard prices`: the dated price and cost books."""

from pathlib import Path

import click

from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.price_file import parse_price_file
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.price_import import price_import
from steelyard.cli.show import Row, Show, words
from steelyard.gateway.figures import with_texts
from steelyard.kernel.errors import StartError

_UNITS = {1: "token", 1000: "1K tokens", 1_000_000: "1M tokens"}
_COLUMNS = (
    words("Book", "book"),
    words("Of", "subject"),
    words("From", "effective_from"),
    words("Lines", "lines"),
    words("Source", "source"),
)
_VERSION = words("Version", "id")


@click.group(epilog=examples("steelyard prices lint prices.toml", "steelyard prices load prices.toml"))
def prices() -> None:
    """Price and cost books: dated tariffs, never edited, only followed by newer ones."""


prices.add_command(price_import)


@prices.command("load")
@click.argument("file", type=click.Path(path_type=Path))
@at_desk
def prices_load(desk: Desk, show: Show, file: Path) -> None:
    """Check a price FILE and load what is new in it."""
    loaded = desk.command("prices.load", {"text": read_price_file(file)})
    count = len(loaded["inserted"])
    show.say(f"{count} tariff version{'' if count == 1 else 's'} loaded, {loaded['unchanged']} unchanged.", loaded)


@prices.command("list")
@at_desk
def prices_list(desk: Desk, show: Show) -> None:
    """Every tariff version, the one that counts first."""
    rows = desk.command("prices.list")
    if show.as_json:
        show.json(rows)
        return
    show.rows([_readable(row) for row in rows], (_VERSION, *_COLUMNS), "No price is loaded: steelyard prices load FILE")


@prices.command("lint")
@click.argument("file", type=click.Path(path_type=Path))
@at_desk
def prices_lint(desk: Desk, show: Show, file: Path) -> None:
    """Check a price FILE without loading it; every entry and field at fault is named."""
    drafts = with_texts(parse_price_file(read_price_file(file)).tariffs)
    show.say(f"{file} is in order: {len(drafts)} tariff versions.", drafts)
    if not show.as_json:
        show.rows([_readable(row) for row in drafts], _COLUMNS, "")


@prices.command("demo")
def prices_demo() -> None:
    """Print the shipped demonstration price file: a start for your own."""
    click.echo(demo_price_text(), nl=False)


def read_price_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise StartError(f"The price file {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise StartError(f"The price file {file} is not UTF-8 text.") from None


def _readable(row: Row) -> Row:
    """The lines of a tariff as one text: `input 0.50, output 1.50 CNY per 1M tokens`."""
    parts = [f"{line['meter'].replace('_', ' ')} {line['text']}" for line in row["lines"]]
    if row["book"] == "rate":
        return {**row, "lines": f"1 {row['subject']} is {row['lines'][0]['text']} {row['currency']}"}
    if row["lines"][0]["meter"] in {"cpu", "energy"}:
        ending = f"per CPU-hour and kWh, {row['watts_milli'] / 1000:g} W per busy core"
    else:
        per = row["lines"][0]["per"]
        ending = f"per {_UNITS.get(per, f'{per:,} tokens')}"
    tier = f"{row['tier']}: " if row["tier"] else ""
    subject = f"{row['subject']} {row['model']}".strip()
    return {**row, "subject": subject, "lines": f"{tier}{', '.join(parts)} {row['currency']} {ending}"}
