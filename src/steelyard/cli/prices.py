"""`steelyard prices`: the dated price and cost books."""

from pathlib import Path

import click

from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.markup import Wish, marked_up_from_now
from steelyard.catalog.price_diff import Fate, changes
from steelyard.catalog.price_file import COST, PRICE, RATE, SUBJECT_FIELD, parse_price_file
from steelyard.catalog.price_text import price_text
from steelyard.catalog.standing import standing_at
from steelyard.catalog.store import models, tariffs_by_subject
from steelyard.catalog.vendor_books import vendor_book
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.price_import import price_import
from steelyard.cli.price_rows import DIFF_COLUMNS, PRICE_COLUMNS, diff_rows, price_rows
from steelyard.cli.show import Row, Show, words
from steelyard.gateway.figures import moment_ns, with_texts
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.errors import CallerError, StartError
from steelyard.kernel.tariff import Tariff

_UNITS = {1: "token", 1000: "1K tokens", 1_000_000: "1M tokens"}
_COLUMNS = (
    words("Book", "book"),
    words("Of", "subject"),
    words("From", "effective_from"),
    words("Lines", "lines"),
    words("Source", "source"),
)
_VERSION = words("Version", "id")


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard prices lint prices.toml",
        "steelyard prices diff prices.toml",
        "steelyard prices load prices.toml",
        "steelyard prices show deepseek-flash --at 2026-11-27T10:30:00+08:00",
        "steelyard prices markup deepseek --percent 20 > prices.toml",
    ),
)
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
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@at_desk
def prices_lint(desk: Desk, show: Show, files: tuple[Path, ...]) -> None:
    """Check price FILEs without loading them; every entry and field at fault is named."""
    found = []
    for file in files:
        drafts = with_texts(parse_price_file(read_price_file(file)).tariffs)
        show.line(f"{file} is in order: {len(drafts)} tariff versions.")
        found += drafts
    show.rows(found if show.as_json else [_readable(row) for row in found], _COLUMNS, "")


@prices.command(
    "diff", epilog=examples("steelyard prices diff prices.toml", "steelyard prices diff prices.toml --json")
)
@click.argument("file", type=click.Path(path_type=Path))
@at_desk
def prices_diff(desk: Desk, show: Show, file: Path) -> None:
    """What loading a price FILE would change: new versions, and of each what is another than in the one before."""
    drafts = parse_price_file(read_price_file(file)).tariffs
    with desk.read() as connection:
        found = changes(drafts, {book: tariffs_by_subject(connection, book) for book in SUBJECT_FIELD})
    if show.as_json:
        show.json(found)
        return
    new = [one for one in found if one.fate is not Fate.UNCHANGED]
    show.rows(diff_rows(new), DIFF_COLUMNS, f"{file} says what stands already: nothing would change.")
    if new and len(new) < len(found):
        show.line(f"{len(found) - len(new)} more entries say what stands already.")


@prices.command(
    "show",
    epilog=examples(
        "steelyard prices show deepseek-flash",
        "steelyard prices show deepseek-flash --at 2026-11-27T10:30:00+08:00",
    ),
)
@click.argument("model")
@click.option("--at", metavar="WHEN", help="At this date, time or age (default: now).")
@at_desk
def prices_show(desk: Desk, show: Show, model: str, at: str | None) -> None:
    """What MODEL is sold at and what it costs at each upstream: the versions in force, their variants and sources."""
    now_ns = desk.clock.now_ns()
    at_ns = now_ns if at is None else moment_ns(at, now_ns, "at")
    with desk.read() as connection:
        sold = tariffs_by_subject(connection, PRICE).get(model, ())
        costs = tariffs_by_subject(connection, COST)
        known = models(connection)
    if not sold and model not in known:
        raise CallerError(404, "model_not_found", f"There is no model {model!r}. See: steelyard models list")
    offers = known[model].offers if model in known else ()
    found = list(standing_at(PRICE, sold, at_ns))
    for offer in offers:
        of_upstream = costs.get(offer.upstream, ())
        own = [one for one in of_upstream if one.model == offer.upstream_model]
        found += standing_at(COST, own or [one for one in of_upstream if not one.model], at_ns)
    if show.as_json:
        show.json(found)
        return
    show.rows(price_rows(found), PRICE_COLUMNS, f"{model} has no price and no cost at that time.")
    for one in found:
        name = "price" if one.book == PRICE else f"cost at {one.subject}"
        bands = ", each band only the tokens inside it" if one.marginal else ""
        show.line(f"{name}: version {one.version}, from {iso_from_ns(one.effective_from_ns)}{bands}, {one.source}")


@prices.command(
    "markup",
    epilog=examples(
        "steelyard prices markup deepseek --percent 20 > prices.toml",
        "steelyard prices markup openai --percent 12.5 --currency CNY",
    ),
)
@click.argument("name", metavar="VENDOR")
@click.option("--percent", required=True, help="So much more than the costs; below 0 less.")
@click.option("--model", "asked", multiple=True, metavar="MODEL", help="Only this one of the vendor's models.")
@click.option("--currency", metavar="CODE", default="", help="If not that of the costs; needs a [[rate]] in the books.")
@at_desk
def prices_markup(desk: Desk, show: Show, name: str, percent: str, asked: tuple[str, ...], currency: str) -> None:
    """Print a price file made from the cost book of VENDOR, every condition carried over. Loads nothing."""
    book, now_ns = vendor_book(name), desk.clock.now_ns()
    chosen = [book.model(one) for one in asked] or book.models
    names = {model.upstream_model: model.upstream_model for model in chosen}
    rates: dict[str, tuple[Tariff, ...]] = {}
    if currency:
        with desk.read() as connection:
            rates = tariffs_by_subject(connection, RATE)
    drafts = marked_up_from_now(book.costs, names, Wish(percent, currency), rates, now_ns)
    heading = f"Prices of the models of {book.vendor.title}: {percent} % on its cost book."
    show.text(price_text(drafts, heading), drafts)


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
    if row["lines"][0]["meter"] in {"cpu", "gpu", "energy"}:
        of = "GPU" if any(line["meter"] == "gpu" for line in row["lines"]) else "CPU"
        each = "core" if of == "CPU" else of
        ending = f"per {of}-hour and kWh, {row['watts_milli'] / 1000:g} W per busy {each}"
    else:
        per = row["lines"][0]["per"]
        ending = f"per {_UNITS.get(per, f'{per:,} tokens')}"
    tier = f"{row['tier']}: " if row["tier"] else ""
    subject = f"{row['subject']} {row['model']}".strip()
    return {**row, "subject": subject, "lines": f"{tier}{', '.join(parts)} {row['currency']} {ending}"}
