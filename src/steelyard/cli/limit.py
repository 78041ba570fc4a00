"""`steelyard limit`: budgets and rates of a tenant, project or key."""

from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk, login
from steelyard.cli.show import Column, Row, Show, when, words
from steelyard.kernel.calendar import WEEKDAYS, Every
from steelyard.kernel.money import money_from_nano
from steelyard.kernel.records import LimitKind

_RATES = {
    LimitKind.RPM: "{:,} requests a minute",
    LimitKind.TPM: "{:,} tokens a minute",
    LimitKind.CONCURRENCY: "{:,} at the same time",
}


def _limit(row: Row) -> str:
    if row["kind"] != LimitKind.BUDGET:
        return _RATES[LimitKind(row["kind"])].format(row["amount"])
    return f"{money_from_nano(row['amount_nano'], row['currency'])} a {row['every']}"


def _spent(row: Row) -> str:
    return money_from_nano(row["spent_nano"], row["currency"]) if "spent_nano" in row else ""


def _whose(row: Row) -> str:
    return (
        f"{row['scope']} {row['subject_id']} {row['name']}"
        if row["scope"] == "key"
        else f"{row['scope']} {row['name']}"
    )


_COLUMNS = (
    words("Tenant", "tenant"),
    Column("Whose", _whose),
    Column("Limit", _limit, right=True),
    Column("Spent", _spent, right=True),
    when("Begins anew", "begins_anew"),
    words("Zone", "zone"),
    when("Set", "set_at"),
    words("By", "actor"),
    words("Reason", "reason"),
)
_LENGTHS = [every.value for every in Every]
_KINDS = [kind.value for kind in LimitKind]
_whose_options = (
    click.option("--tenant", metavar="NAME", help="The tenant it bounds, as a whole …"),
    click.option("--project", metavar="NAME", help="… or this project of his …"),
    click.option("--key", metavar="ID", type=int, help="… or this key alone."),
    click.option("--reason", default="", help="Why; it is kept with the limit."),
    click.option("--actor", help="Who decided it (default: your login)."),
)


def _whose_limit(command: Any) -> Any:
    for option in reversed(_whose_options):
        command = option(command)
    return command


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard limit set --tenant acme --project default --budget 20.00 --every month --zone Asia/Shanghai",
        "steelyard limit set --key 7 --rpm 60 --tpm 100000 --concurrency 4",
        "steelyard limit list --tenant acme",
        "steelyard limit lift --key 7 --kind rpm",
    ),
)
def limit() -> None:
    """Limits: budgets, requests and tokens a minute, requests at the same time."""


@limit.command("set")
@_whose_limit
@click.option("--budget", metavar="AMOUNT", help="Money for each day, week or month (decimal text such as 20.00).")
@click.option("--every", type=click.Choice(_LENGTHS), default=Every.MONTH.value, show_default=True, help="How long.")
@click.option("--zone", default="UTC", show_default=True, help="The time zone whose midnight begins it.")
@click.option("--week-start", type=click.Choice(WEEKDAYS), default=WEEKDAYS[0], show_default=True)
@click.option("--rpm", type=int, metavar="N", help="Requests in any 60 seconds.")
@click.option("--tpm", type=int, metavar="N", help="Tokens in any 60 seconds, prompt and output.")
@click.option("--concurrency", type=int, metavar="N", help="Requests at the same time.")
@at_desk
def limit_set(desk: Desk, show: Show, /, actor: str | None, **asked: Any) -> None:
    """Put limits in force, in place of what the same subject had. What the present window has seen counts."""
    payload = {name: value for name, value in asked.items() if value is not None}
    rows = desk.command("limit.set", payload | {"actor": actor or login()})
    show.rows(rows, _COLUMNS, "")


@limit.command("list")
@click.option("--tenant", metavar="NAME", help="Only this tenant's, his projects' and keys' included.")
@at_desk
def limit_list(desk: Desk, show: Show, tenant: str | None) -> None:
    """All limits in force. Spent is what is posted; running requests come on top."""
    rows = desk.command("limit.list", {} if tenant is None else {"tenant": tenant})
    show.rows(rows, _COLUMNS, "There is no limit yet: steelyard limit set --tenant NAME --rpm 60")


@limit.command("lift")
@_whose_limit
@click.option("--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Only this kind; repeatable.")
@click.option("--every", type=click.Choice(_LENGTHS), help="Of several budgets only this one.")
@at_desk
def limit_lift(desk: Desk, show: Show, /, actor: str | None, **asked: Any) -> None:
    """End limits of a tenant, project or key: all of them, or the kinds named."""
    payload = {name: value for name, value in asked.items() if value not in {None, ()}}
    ended = desk.command("limit.lift", payload | {"actor": actor or login()})
    lifted = f"{ended['lifted']} limit{'' if ended['lifted'] == 1 else 's'}"
    show.say(f"Lifted {lifted} of the {ended['scope']} {ended['name']}.", ended)
