"""`steelyard payables` and `steelyard reconcile`: what vendors are owed, and their bills against our books."""

from pathlib import Path
from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk, login
from steelyard.cli.show import Column, Show, count, money, short_moment, words
from steelyard.gateway.figures import moment_ns
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.errors import StartError, bad_request
from steelyard.kernel.money import money_from_nano
from steelyard.reports.bill_file import FIELDS, columns_for, read_bill
from steelyard.reports.payables import payables
from steelyard.reports.reconcile import Reconciliation, reconcile, vendor_kinds

_PAYABLES = (
    words("Vendor", "vendor"),
    count("Requests", "requests"),
    money("Payable", "payable_nano"),
    money("of it used", "used_nano"),
    count("Estimated", "estimated"),
    money("of it estimated", "estimated_nano"),
)
_DIFFERENCES = (
    words("Place", "place"),
    words("What", "name"),
    count("Requests", "requests"),
    count("Tokens", "tokens"),
    count("Billed", "billed_tokens"),
    money("Booked", "ours_nano"),
    money("Billed", "theirs_nano"),
    money("Difference", "difference_nano"),
    Column("Adjust", lambda row: "no" if row["name"] in {"missing", "clock window"} else "yes"),
)


@click.command("payables", epilog=examples("steelyard payables"))
@at_desk
def payables_command(desk: Desk, show: Show) -> None:
    """What vendors are owed, each in his own currency."""
    with desk.read() as connection:
        found = payables(connection)
    show.rows(found, _PAYABLES, "No vendor has served anything yet.")


@click.command(
    "reconcile",
    epilog=examples(
        "steelyard reconcile deepseek usage-2026-11.csv --zone Asia/Shanghai",
        "steelyard reconcile openai bill.jsonl --columns day=usage_date,amount=cost_usd",
        'steelyard reconcile deepseek usage-2026-11.csv --post --reason "bill of November"',
    ),
)
@click.argument("vendor")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--columns", default="", metavar="FIELD=NAME,…", help=f"What columns hold: {', '.join(FIELDS)}.")
@click.option("--zone", default="UTC", show_default=True, help="The zone of the bill's days and hours.")
@click.option("--since", metavar="WHEN", help="Begin of the period (default: the bill's first day).")
@click.option("--until", metavar="WHEN", help="End of the period, excluded (default: the bill's last day).")
@click.option("--post", is_flag=True, help="Post what is to be adjusted.")
@click.option("--reason", default="", help="Why; stands in the ledger. Needed to post.")
@click.option("--actor", help="Who decided it (default: your login).")
@at_desk
def reconcile_command(desk: Desk, show: Show, /, vendor: str, file: Path, **asked: Any) -> None:
    """Compare the bill or usage export in FILE (CSV or JSON lines) with what is booked as payable to VENDOR.

    Every difference has a name. With --post what is payable is adjusted to the bill, once for each file; what is
    missing on the bill, or on the other side of midnight, stays as it is.
    """
    if asked["post"] and not asked["reason"].strip():
        raise bad_request("--post needs a --reason.", "reason")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise StartError(f"The bill {file} cannot be read: {error.strerror}.") from None
    zone, now_ns = asked["zone"], desk.clock.now_ns()
    bounds = [asked[name] and moment_ns(asked[name], now_ns, name, zone) for name in ("since", "until")]
    with desk.read() as connection:
        columns = columns_for(vendor_kinds(connection, vendor), asked["columns"])
        found = reconcile(connection, vendor, read_bill(data, columns, zone_of(zone), zone), *bounds)
    posted = _post(desk, found, asked) if asked["post"] else None
    if show.as_json:
        show.json({"reconciliation": found, "posted": posted})
        return
    show.rows(found.differences, _DIFFERENCES, "The bill and the books say the same.")
    _say(show, found, posted)


def _post(desk: Desk, found: Reconciliation, asked: dict[str, Any]) -> dict[str, Any]:
    payload = {
        "vendor": found.vendor,
        "file": found.file,
        "currency": found.currency,
        "since_ns": found.since_ns,
        "until_ns": found.until_ns,
        "amount_nano": found.adjust_nano,
        "before_nano": found.adjusted_before_nano,
        "reason": asked["reason"],
        "actor": asked["actor"] or login(),
    }
    reply: dict[str, Any] = desk.command("reconcile.post", payload)
    return reply


def _say(show: Show, found: Reconciliation, posted: dict[str, Any] | None) -> None:
    def told(nano: int) -> str:
        return money_from_nano(nano, found.currency)

    show.line(f"{short_moment(found.since_ns)} to {short_moment(found.until_ns)}: {found.agreed} places agree.")
    show.line(f"Booked {told(found.ours_nano)}, billed {told(found.theirs_nano)}.")
    if found.adjusted_before_nano:
        show.line(f"Adjusted before for this period: {told(found.adjusted_before_nano)}.")
    if posted is None:
        show.line(f"To adjust: {told(found.adjust_nano)}. --post with a --reason posts it.")
    elif posted["posted_before"]:
        show.line("This file was posted before; nothing was posted now.")
    elif posted["batch"] is None:
        show.line("There was nothing to adjust; that is noted.")
    else:
        show.line(f"Posted in batch {posted['batch']}: {told(found.adjust_nano)}.")
