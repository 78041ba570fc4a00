"""`steelyard ledger`: the general ledger behind the reports."""

from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Show, moment, money, words
from steelyard.cli.wallet import deed, done
from steelyard.gateway.figures import moment_ns
from steelyard.kernel import limits
from steelyard.reports.accounts import accounts, entries, trial_balance

_ACCOUNTS = (
    words("Account", "name"),
    words("Sort", "sort"),
    money("Debit", "debit_nano"),
    money("Credit", "credit_nano"),
    money("Balance", "balance_nano"),
    words("Meaning", "meaning"),
)
_ENTRIES = (
    words("Entry", "id"),
    words("Batch", "batch_id"),
    moment("Posted", "posted_ns"),
    words("Fact", "fact"),
    words("Debit", "debit"),
    words("Credit", "credit"),
    money("Amount", "amount_nano"),
    words("Note", "note"),
)


_PERIODS = (
    words("Period", "id"),
    moment("Closed until", "until_ns"),
    words("Zone", "zone"),
    words("Last batch", "last_batch_id"),
    moment("Closed at", "closed_ns"),
    words("By", "actor"),
    words("Reason", "reason"),
)


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard ledger accounts",
        "steelyard ledger entries --account wallet:acme --limit 10",
        'steelyard ledger reverse 17 --reason "paid twice"',
        "steelyard ledger close --until 2026-12-01 --zone Asia/Shanghai",
    ),
)
def ledger() -> None:
    """The general ledger: accounts and entries, debits equal to credits."""


@ledger.command("accounts")
@at_desk
def ledger_accounts(desk: Desk, show: Show) -> None:
    """Every account with its balance and meaning, and the trial balance."""
    with desk.read() as connection:
        rows, totals = accounts(connection), trial_balance(connection)
    show.rows(rows, _ACCOUNTS, "There is no account yet: steelyard tenant add NAME")
    for total in totals:
        balanced = "balanced" if total.debit_nano == total.credit_nano else "NOT BALANCED: run steelyard verify"
        show.line(f"Debits and credits in {total.currency}: {balanced}")


@ledger.command("entries")
@click.option("--account", help="Only entries that touch this account, such as wallet:acme.")
@click.option("--batch", type=int, help="Only this posting batch.")
@click.option("--before", type=int, help="Older than this entry: the next page.")
@click.option(
    "--limit", type=click.IntRange(1, limits.PAGE_ROWS_MAX), default=limits.PAGE_ROWS, show_default=True, help="Rows."
)
@at_desk
def ledger_entries(
    desk: Desk, show: Show, account: str | None, batch: int | None, before: int | None, limit: int
) -> None:
    """Entries, newest first: each moves an amount from the credited to the debited account."""
    with desk.read() as connection:
        page = entries(connection, account, batch_id=batch, before=before, limit=limit)
    show.rows(page.rows, _ENTRIES, "There is no such entry.")
    if page.older is not None:
        show.line(f"Older ones: --before {page.older}")


@ledger.command("reverse")
@click.argument("batch", type=int)
@deed
@at_desk
def ledger_reverse(desk: Desk, show: Show, /, batch: int, **why: Any) -> None:
    """Reverse BATCH, a top-up, grant, adjustment, transfer or refund, once. Needs a --reason."""
    found = done(desk, "ledger.reverse", {"batch": batch}, why)
    show.say(f"Batch {found['batch']} reverses batch {batch}.", found)


@ledger.command("close")
@click.option("--until", metavar="WHEN", required=True, help="The end of the period: a date or a time.")
@click.option("--zone", default="UTC", show_default=True, help="The zone of a date or time that names none.")
@deed
@at_desk
def ledger_close(desk: Desk, show: Show, /, until: str, zone: str, **why: Any) -> None:
    """Close everything before a moment: nothing is posted into it any more, corrections go to the open period."""
    until_ns = moment_ns(until, desk.clock.now_ns(), "until", zone)
    found = done(desk, "ledger.close", {"until_ns": until_ns, "zone": zone}, why)
    show.say(f"Closed until {found['until']}; its last batch is {found['last_batch_id']}.", found)


@ledger.command("periods")
@at_desk
def ledger_periods(desk: Desk, show: Show) -> None:
    """Closed periods, oldest first."""
    show.rows(desk.command("ledger.periods"), _PERIODS, "No period is closed yet.")
