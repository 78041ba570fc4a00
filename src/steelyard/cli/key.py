"""`steelyard key`: the credentials of tenants' projects."""

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Column, Show, when, words

_COLUMNS: tuple[Column, ...] = (
    Column("Id", lambda row: str(row["id"]), right=True),
    Column("Tenant", lambda row: "(operator)" if row["operator"] else str(row["tenant"])),
    words("Project", "project"),
    words("Name", "name"),
    words("Key", "shown"),
    when("Since", "created_at"),
    when("Revoked", "revoked_at"),
)


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard key add acme --name backend", "steelyard key list --tenant acme", "steelyard key revoke 3"
    ),
)
def key() -> None:
    """API keys. Only a hash is stored; the secret is shown once."""


@key.command("add")
@click.argument("tenant")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--project", default="default", show_default=True, help="The tenant's project it belongs to.")
@at_desk
def key_add(desk: Desk, show: Show, tenant: str, name: str, project: str) -> None:
    """Make a key for a TENANT's project. It is shown this once."""
    made = desk.command("key.add", {"tenant": tenant, "name": name, "project": project})
    show.say(f"{made['key']}\nKey {made['id']} ({made['name']}) of {tenant}. It is not shown again.", made)


@key.command("list")
@click.option("--tenant", help="Only this tenant's keys.")
@at_desk
def key_list(desk: Desk, show: Show, tenant: str | None) -> None:
    """All keys, operators' and revoked ones included."""
    rows = desk.command("key.list", {} if tenant is None else {"tenant": tenant})
    show.rows(rows, _COLUMNS, "There is no key yet: steelyard key add TENANT --name NAME")


@key.command("revoke")
@click.argument("key_id", metavar="ID", type=int)
@at_desk
def key_revoke(desk: Desk, show: Show, key_id: int) -> None:
    """End the key with this ID: within a second no worker accepts it any more."""
    ended = desk.command("key.revoke", {"id": key_id})
    show.say(f"Key {ended['id']} ({ended['name']}, {ended['shown']}) is revoked.", ended)
