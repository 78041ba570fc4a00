"""`steelyard wallet`: what tenants can pay with, and every way in which it changes by hand."""

from collections.abc import Callable
from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk, login
from steelyard.cli.show import Show, moment, money, short_moment, words
from steelyard.gateway.figures import deadline_ns
from steelyard.kernel.calendar import WEEKDAYS
from steelyard.kernel.money import money_from_nano

_COLUMNS = (
    words("Tenant", "tenant"),
    money("Balance", "balance_nano"),
    money("Grants", "granted_nano"),
    money("Credit limit", "limit_nano"),
    money("Available", "available_nano"),
    money("Held", "held_nano"),
)
_GRANTS = (
    words("Grant", "account"),
    money("Given", "amount_nano"),
    money("Left", "left_nano"),
    moment("Expires", "expires_ns"),
)


def deed(command: Callable[..., None]) -> Callable[..., None]:
    """The options of all that is done to money: why, by whom, and the key that keeps it from being done twice."""
    for option in (
        click.option("--idempotency-key", metavar="KEY", help="The same key does the same only once."),
        click.option("--actor", help="Who decided it (default: your login)."),
        click.option("--reason", "--note", "reason", default="", help="What the ledger says about it."),
    ):
        command = option(command)
    return command


def done(desk: Desk, op: str, payload: dict[str, Any], why: dict[str, Any]) -> Any:
    """The answer of the command, asked with whatever was given."""
    asked = payload | why | {"actor": why.get("actor") or login()}
    return desk.command(op, {name: value for name, value in asked.items() if value is not None})


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard wallet topup acme 100",
        'steelyard wallet topup acme 12.50 --note "invoice 17" --idempotency-key invoice-17',
        'steelyard wallet grant acme 5 --expires 30d --reason "welcome"',
        "steelyard wallet allowance acme 5.00 --every day --zone Asia/Shanghai",
        "steelyard wallet limit acme 200",
        'steelyard wallet transfer acme globex 10 --rate 7.2 --source "bank, 27 November"',
        'steelyard wallet credit-back req_0199… --reason "answer was cut"',
        "steelyard wallet show acme",
    ),
)
def wallet() -> None:
    """Wallets: what a tenant can pay with, prepaid, free or on credit."""


def _said(show: Show, found: dict[str, Any], what: str) -> None:
    balance = money_from_nano(found["balance_nano"], found["currency"])
    batch = f" (batch {found['batch']})" if found.get("batch") else ""
    show.say(f"{what}: {found['name']} has {balance} in the wallet now{batch}.", found)


@wallet.command("topup")
@click.argument("tenant")
@click.argument("amount")
@deed
@at_desk
def wallet_topup(desk: Desk, show: Show, /, tenant: str, amount: str, **why: Any) -> None:
    """Put AMOUNT (decimal text such as 12.50) into the wallet of TENANT."""
    booked = done(desk, "wallet.topup", {"tenant": tenant, "amount": amount}, why)
    balance = money_from_nano(booked["balance_nano"], booked["currency"])
    show.say(f"{tenant} has {balance} now (batch {booked['batch']}).", booked)


@wallet.command("refund")
@click.argument("tenant")
@click.argument("amount")
@deed
@at_desk
def wallet_refund(desk: Desk, show: Show, /, tenant: str, amount: str, **why: Any) -> None:
    """Pay AMOUNT out of the wallet of TENANT: money that was paid in and is not held, no grant and no credit."""
    _said(show, done(desk, "wallet.refund", {"tenant": tenant, "amount": amount}, why), "Paid back")


@wallet.command("grant")
@click.argument("tenant")
@click.argument("amount")
@click.option("--expires", metavar="WHEN", required=True, help="A date, a time, or how long from now, such as 30d.")
@deed
@at_desk
def wallet_grant(desk: Desk, show: Show, /, tenant: str, amount: str, expires: str, **why: Any) -> None:
    """Give TENANT free credit. It is used before the wallet, the grant that expires first before the others."""
    expires_ns = deadline_ns(expires, desk.clock.now_ns(), "expires")
    asked = {"tenant": tenant, "amount": amount, "expires_ns": expires_ns, "expires": expires}
    found = done(desk, "wallet.grant", asked, why)
    granted = money_from_nano(found["granted_nano"], found["currency"])
    show.say(f"{tenant} has {granted} of free credit now (batch {found['batch']}).", found)


@wallet.command("limit")
@click.argument("tenant")
@click.argument("amount")
@deed
@at_desk
def wallet_limit(desk: Desk, show: Show, /, tenant: str, amount: str, **why: Any) -> None:
    """Let the wallet of TENANT go AMOUNT below zero (postpaid); 0 ends it. Lowering it only stops new requests."""
    found = done(desk, "wallet.limit", {"tenant": tenant, "amount": amount}, why)
    limit = money_from_nano(found["limit_nano"], found["currency"])
    show.say(f"The wallet of {tenant} may go {limit} below zero.", found)


@wallet.command("adjust", context_settings={"ignore_unknown_options": True})
@click.argument("tenant")
@click.argument("amount")
@deed
@at_desk
def wallet_adjust(desk: Desk, show: Show, /, tenant: str, amount: str, **why: Any) -> None:
    """Add AMOUNT to the wallet of TENANT or, below zero, take it: goodwill and corrections. Needs a --reason."""
    _said(show, done(desk, "wallet.adjust", {"tenant": tenant, "amount": amount}, why), "Adjusted")


@wallet.command("transfer")
@click.argument("tenant")
@click.argument("to")
@click.argument("amount")
@click.option("--rate", help="What one unit is worth in the other currency: 7.2 or 36/5.")
@click.option("--source", help="Who says so. Needed with --rate.")
@deed
@at_desk
def wallet_transfer(desk: Desk, show: Show, /, tenant: str, to: str, amount: str, **rest: Any) -> None:
    """Move AMOUNT from the wallet of TENANT to the wallet of TO, at a --rate when they have different currencies."""
    _said(show, done(desk, "wallet.transfer", {"tenant": tenant, "to": to, "amount": amount}, rest), "Transferred")


@wallet.command("credit-back")
@click.argument("request_id", metavar="REQUEST")
@click.argument("amount", required=False)
@deed
@at_desk
def wallet_credit_back(desk: Desk, show: Show, /, request_id: str, amount: str | None, **why: Any) -> None:
    """Give back what REQUEST was charged, or AMOUNT of it; in all never more than the charge. Needs a --reason."""
    found = done(desk, "wallet.credit", {"request_id": request_id, "amount": amount}, why)
    _said(show, found, f"Gave {money_from_nano(found['amount_nano'], found['currency'])} back")


@wallet.command("allowance")
@click.argument("tenant")
@click.argument("amount", required=False)
@click.option("--every", type=click.Choice(["day", "week", "month"]), help="How long a window is.")
@click.option("--zone", default="UTC", show_default=True, help="Where windows begin at midnight.")
@click.option("--week-start", type=click.Choice(WEEKDAYS), default=WEEKDAYS[0], help="The first day of a week.")
@click.option("--stop", is_flag=True, help="Give no further grants.")
@deed
@at_desk
def wallet_allowance(desk: Desk, show: Show, /, tenant: str, amount: str | None, stop: bool, **rest: Any) -> None:
    """Give TENANT free credit of AMOUNT in every window; what is left of it expires with the window."""
    calendar = {name: rest.pop(name) for name in ("every", "zone", "week_start")}
    if stop:
        found = done(desk, "wallet.allowance.stop", {"tenant": tenant}, rest)
        show.say(f"{tenant} gets no further allowance." if found["stopped"] else f"{tenant} had none.", found)
        return
    found = done(desk, "wallet.allowance", {"tenant": tenant, "amount": amount, **calendar}, rest)
    begins = short_moment(found["window_end_ns"])
    show.say(f"{tenant} gets it once in each window; the next begins at {begins}.", found)


@wallet.command("show")
@click.argument("tenant")
@at_desk
def wallet_show(desk: Desk, show: Show, tenant: str) -> None:
    """What TENANT can pay with: available + held = wallet + grants + credit limit."""
    found = desk.command("wallet.show", {"tenant": tenant})
    if show.as_json:
        show.json(found)
        return
    show.rows([found], _COLUMNS, "")
    if found["grants"]:
        show.rows([one | {"currency": found["currency"]} for one in found["grants"]], _GRANTS, "")
    for one in found["allowances"]:
        amount = money_from_nano(one["amount_nano"], found["currency"])
        show.line(f"Allowance: {amount} every {one['every']} ({one['zone']})")
