"""`steelyard rerate`: a past period under another price book, and its correction when told to post it."""

import sys
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steelyard.catalog.price_file import parse_price_file
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk, login
from steelyard.cli.prices import read_price_file
from steelyard.cli.show import Show, console, count, money, words
from steelyard.gateway.figures import moment_ns
from steelyard.kernel.errors import bad_request
from steelyard.reports.rerate import Rerating, book_of, rerate_period


@click.command(
    "rerate",
    epilog=examples(
        "steelyard rerate --from 2026-11-01 --to 2026-12-01 --book new-prices.toml",
        'steelyard rerate --from 2026-11-01 --to 2026-12-01 --book new-prices.toml --post --reason "wrong price"',
    ),
)
@click.option("--from", "since", metavar="WHEN", required=True, help="Requests closed from here on.")
@click.option("--to", "until", metavar="WHEN", required=True, help="Up to here, excluded.")
@click.option(
    "--book", "file", type=click.Path(path_type=Path), metavar="FILE", required=True, help="The other price file."
)
@click.option("--dry-run/--post", "dry", default=True, show_default=True, help="Only show it, or post the correction.")
@click.option("--reason", help="Why; stands on the statements. Needed to post.")
@click.option("--actor", help="Who decided it (default: your login).")
@at_desk
def rerate_command(desk: Desk, show: Show, /, since: str, until: str, file: Path, dry: bool, **why: str | None) -> None:
    """What a past period would have cost under another price book, per tenant and model.

    With --post the difference is charged or given back, once for a book and period. What was posted before stays; the
    correction reverses its entries by so much.
    """
    reason = why["reason"]
    if not dry and not reason:
        raise bad_request("--post needs a --reason.", "reason")
    text = read_price_file(file)
    book = book_of(text, parse_price_file(text).tariffs)
    if not book.versions:
        raise bad_request(f"{file} has no [[price]] to rate with.", "book")
    now_ns = desk.clock.now_ns()
    since_ns, until_ns = moment_ns(since, now_ns, "from"), moment_ns(until, now_ns, "to")
    if since_ns >= until_ns:
        raise bad_request("--to must be later than --from.", "to")
    with desk.read() as connection, _bar() as bar:
        task = bar.add_task("Rating again", total=None)
        found = rerate_period(
            connection, book, since_ns, until_ns, lambda done, total: bar.update(task, completed=done, total=total)
        )
    posted = None if dry else _post(desk, found, str(reason), why["actor"] or login())
    if show.as_json:
        show.json({"rerating": found, "posted": posted})
        return
    show.rows(found.differences, _COLUMNS, "Nothing was served in this period.")
    if posted is None:
        show.line("Nothing was posted. --post with a --reason posts the difference.")
    elif posted["posted_before"]:
        show.line("This book has corrected this period before; nothing was posted now.")
    elif posted["batch"] is None:
        show.line("There was nothing to correct; that is noted.")
    else:
        show.line(f"Posted in batch {posted['batch']}.")


def _post(desk: Desk, found: Rerating, reason: str, actor: str) -> dict[str, object]:
    corrections = [
        {
            "tenant_id": one.tenant_id,
            "model": one.model,
            "currency": one.currency,
            "wallet_nano": one.wallet_nano,
            "overrun_nano": one.overrun_nano,
        }
        for one in found.differences
    ]
    payload = {"book": found.book, "since_ns": found.since_ns, "until_ns": found.until_ns, "corrections": corrections}
    payload |= {"last_batch": found.last_batch, "reason": reason, "actor": actor}
    reply: dict[str, object] = desk.command("rerate.post", payload)
    return reply


def _bar() -> Progress:
    """On a terminal only, and beside the answer, not in it."""
    screen = console(sys.stderr)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )


_COLUMNS = (
    words("Tenant", "tenant"),
    words("Model", "model"),
    count("Requests", "requests"),
    count("without price", "unpriced"),
    money("Charged", "charge_nano"),
    money("Re-rated", "rerated_nano"),
    money("Difference", "difference_nano"),
    money("of it wallet", "wallet_nano"),
    money("of it ours", "overrun_nano"),
)
