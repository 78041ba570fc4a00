"""`steelyard prices import`: price files out of other people's tables. Writes a file to look at; loads nothing."""

import sys
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import msgspec

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Show
from steelyard.imports.amounts import exact_json, exactly, nearest_pico, refuse_large
from steelyard.imports.genai_prices import genai_prices, installed_data
from steelyard.imports.litellm_prices import Asked, litellm_prices
from steelyard.imports.price_text import BOOKS, COST, PRICE, Left, Read, one_price_each, price_text
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.errors import StartError, bad_request

_OPTIONS = (
    click.option("--provider", default="", help="Only this vendor, as the table names it."),
    click.option("--upstream", metavar="NAME", help="What we call that vendor, if not the same."),
    click.option(
        "--book",
        type=click.Choice((*BOOKS, "both")),
        default=COST,
        show_default=True,
        help="What we pay the vendor, what customers pay, or the same numbers for both.",
    ),
    click.option(
        "--from",
        "since",
        type=click.DateTime(["%Y-%m-%d"]),
        help="When prices without a date of their own begin, UTC (default: today).",
    ),
    click.option("--round", "rounded", is_flag=True, help="Round what has more decimals than the books keep."),
    click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead of to stdout."),
)


def _asked(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(
    "import",
    cls=Listing,
    epilog=examples(
        "steelyard prices import genai-prices --provider moonshotai --upstream moonshot --out moonshot.toml",
        "steelyard prices import litellm model_prices_and_context_window.json --provider dashscope --book both",
    ),
)
def price_import() -> None:
    """Price files out of other people's price tables; what cannot be carried over is told on stderr."""


@price_import.command("litellm")
@click.argument("file", type=click.Path(path_type=Path))
@_asked
@at_desk
def import_litellm(desk: Desk, show: Show, /, file: Path, **asked: Any) -> None:
    """Write a price file from LiteLLM's table FILE (model_prices_and_context_window.json)."""
    table = read_json(file)
    if not isinstance(table, dict):
        raise bad_request(f"{file} is no price table of LiteLLM: it must be a JSON object.", "file")
    _write(show, litellm_prices(table, _as_asked(desk, asked)), f"{file.name} of LiteLLM", asked)


@price_import.command("genai-prices")
@click.option("--file", type=click.Path(path_type=Path), help="Its data file, instead of the installed package.")
@_asked
@at_desk
def import_genai_prices(desk: Desk, show: Show, /, file: Path | None, **asked: Any) -> None:
    """Write a price file from the data of genai-prices: the installed package, or its data.json."""
    providers = installed_data() if file is None else read_json(file)
    if not isinstance(providers, list):
        raise bad_request(f"{file} is no data of genai-prices: it must be a JSON list of providers.", "file")
    origin = f"genai-prices {metadata.version('genai-prices')}" if file is None else f"{file.name} of genai-prices"
    _write(show, genai_prices(providers, _as_asked(desk, asked)), origin, asked)


def read_json(file: Path) -> Any:
    """A JSON file with exact numbers. Raises CallerError or StartError."""
    return exact_json(read_text(file), str(file))


def read_text(file: Path) -> str:
    """A text of somebody else. Raises CallerError or StartError."""
    try:
        refuse_large(file.stat().st_size, str(file))
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise StartError(f"{file} is not UTF-8 text.") from None


def _as_asked(desk: Desk, asked: dict[str, Any]) -> Asked:
    if asked["upstream"] and not asked["provider"]:
        raise bad_request("--upstream names one vendor: say which with --provider.", "upstream")
    today = iso_from_ns(desk.clock.now_ns())[:10]
    since: datetime | None = asked["since"]
    begins = f"{since:%Y-%m-%d}" if since else today
    return Asked(asked["provider"], f"{begins}T00:00:00Z", today, nearest_pico if asked["rounded"] else exactly)


def _write(show: Show, read: Read, origin: str, asked: dict[str, Any]) -> None:
    if not read.entries:
        for one in read.left:
            _tell(one)
        whose = f" of {asked['provider']}" if asked["provider"] else ""
        raise bad_request(f"{origin} has no price{whose} that can be carried over. Check --provider.", "provider")
    entries = read.entries
    if asked["upstream"]:
        entries = tuple(msgspec.structs.replace(entry, vendor=asked["upstream"]) for entry in entries)
    sold = one_price_each(entries)
    left = (*read.left, *(sold.left if asked["book"] != COST else ()))
    text = f"# Made from {origin} by `steelyard prices import`. Read it before you load it.\n"
    text += price_text(entries, COST) if asked["book"] != PRICE else ""
    text += price_text(sold.entries, PRICE) if asked["book"] != COST else ""
    out: Path | None = asked["out"]
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if show.as_json:
        written = {"text": text} if out is None else {"file": str(out)}
        show.json(written | {"entries": len(entries), "left": msgspec.to_builtins(left)})
        return
    for one in left:
        _tell(one)
    click.echo(f"{len(entries)} entries; {len(left)} remarks.", err=True)
    if out is None:
        sys.stdout.write(text)


def _tell(left: Left) -> None:
    click.echo(printable(f"{left.what}: {left.why}"), err=True)


def printable(text: str) -> str:
    """Names of others, who may have put anything into them, as a terminal may show them."""
    return "".join(one if one.isprintable() else "·" for one in text)
