"""`steelyard wallet`: prepaid money."""

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.show import Show, money, words
from steelyard.kernel.money import money_from_nano

_COLUMNS = (
    words("Tenant", "tenant"),
    money("Balance", "balance_nano"),
    money("Available", "available_nano"),
    money("Held", "held_nano"),
)


@click.group(
    epilog=examples(
        "steelyard wallet topup acme 100",
        'steelyard wallet topup acme 12.50 --note "invoice 17" --idempotency-key invoice-17',
        "steelyard wallet show acme",
    )
)
def wallet() -> None:
    """Wallets: a tenant's prepaid money."""


@wallet.command("topup")
@click.argument("tenant")
@click.argument("amount")
@click.option("--note", default="", help="What the ledger says about it.")
@click.option("--idempotency-key", metavar="KEY", help="The same key books the same top-up only once.")
@at_desk
def wallet_topup(desk: Desk, show: Show, tenant: str, amount: str, note: str, idempotency_key: str | None) -> None:
    """Put AMOUNT (decimal text such as 12.50) into the wallet of TENANT."""
    payload = {"tenant": tenant, "amount": amount, "note": note}
    if idempotency_key is not None:
        payload["idempotency_key"] = idempotency_key
    booked = desk.command("wallet.topup", payload)
    balance = money_from_nano(booked["balance_nano"], booked["currency"])
    show.say(f"{tenant} has {balance} now (batch {booked['batch']}).", booked)


@wallet.command("show")
@click.argument("tenant")
@at_desk
def wallet_show(desk: Desk, show: Show, tenant: str) -> None:
    """What the wallet of TENANT holds: balance = available + held for running requests."""
    found = desk.command("wallet.show", {"tenant": tenant})
    if show.as_json:
        show.json(found)
    else:
        show.rows([found], _COLUMNS, "")
