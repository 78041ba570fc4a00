"""`steelyard tenant` and `steelyard operator`: who pays, and who runs the platform."""

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Column, Show, money, when, words

_COLUMNS: tuple[Column, ...] = (
    words("Tenant", "name"),
    words("Currency", "currency"),
    money("Balance", "balance_nano"),
    money("Available", "available_nano"),
    money("Held", "held_nano"),
    when("Since", "created_at"),
)


@click.group(cls=Listing, epilog=examples("steelyard tenant add acme", "steelyard tenant list --json"))
def tenant() -> None:
    """Tenants: who pays."""


@tenant.command("add")
@click.argument("name")
@click.option("--currency", default="CNY", show_default=True, help="The currency of the wallet.")
@at_desk
def tenant_add(desk: Desk, show: Show, name: str, currency: str) -> None:
    """Add a tenant with an empty wallet and the project "default"."""
    made = desk.command("tenant.add", {"name": name, "currency": currency})
    show.say(f"Tenant {made['name']} added. Next: steelyard key add {made['name']} --name NAME", made)


@tenant.command("list")
@at_desk
def tenant_list(desk: Desk, show: Show) -> None:
    """All tenants with their wallets."""
    show.rows(desk.command("tenant.list"), _COLUMNS, "There is no tenant yet: steelyard tenant add NAME")


@click.group(cls=Listing, epilog=examples("steelyard operator add alice"))
def operator() -> None:
    """Operator keys: for the console and the admin API."""


@operator.command("add")
@click.argument("name")
@at_desk
def operator_add(desk: Desk, show: Show, name: str) -> None:
    """Make an operator key. It is shown this once. Revoke it with `steelyard key revoke`."""
    made = desk.command("operator.add", {"name": name})
    show.say(f"{made['key']}\nOperator key {made['id']} ({made['name']}). It is not shown again.", made)
