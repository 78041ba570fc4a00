"""`steelyard import`: bring over what another system has. A dry run unless --apply is given.

Owns the report and the order; readers are in `imports/`, what is made is made by the books (`processes.importing`).
Keys of upstreams are sealed here before they go anywhere, and shown nowhere.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from steelyard.catalog.credentials import credentials
from steelyard.catalog.vendor_books import vendor_book, vendor_names
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk, login
from steelyard.cli.price_import import printable, read_json, read_text
from steelyard.cli.show import Show, words
from steelyard.cli.vendor import keep_key
from steelyard.imports.amounts import exactly, nearest_pico
from steelyard.imports.exact_yaml import exact_yaml
from steelyard.imports.foreign_database import foreign_database
from steelyard.imports.litellm_config import Read, litellm_plan
from steelyard.imports.litellm_keys import litellm_keys_plan
from steelyard.imports.model_facts import Assumed, Facts, Shipped
from steelyard.imports.one_api import SYSTEMS, Wanted, one_api_plan
from steelyard.imports.plan import Plan, Step
from steelyard.imports.tokens import Tenancy
from steelyard.kernel import limits
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import CallerError, bad_request

_STATES = ("created", "changed", "unchanged", "refused")
_STEPS = (words("Step", "op"), words("What", "what"), words("State", "state"), words("Why", "why"))
_LEFT = (words("Stays behind", "what"), words("Why", "why"))

_OF_ALL = (
    click.option("--apply", is_flag=True, help="Do it. Without this nothing is written."),
    click.option("--source", metavar="NAME", help="What that installation is called, if you have several."),
)
_OPTIONS = (
    *_OF_ALL,
    click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="LiteLLM's price table."),
    click.option("--round", "rounded", is_flag=True, help="Round prices that have more decimals than the books keep."),
    click.option("--context", type=click.IntRange(1), default=131_072, show_default=True, help="Tokens, if unknown."),
    click.option("--answer", type=click.IntRange(1), default=8192, show_default=True, help="Tokens, if unknown."),
    click.option("--no-keys", is_flag=True, help="Leave the keys of upstreams where they are."),
)
_OF_TENANTS = (
    click.option("--prefix", default="", help="Stands before the names of tenants."),
    click.option("--loosen", is_flag=True, help="Bring keys also without the bounds that keys here do not have."),
)


def _with(options: Sequence[Callable[..., Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(
    "import",
    cls=Listing,
    epilog=examples(
        "steelyard import litellm config.yaml --prices model_prices_and_context_window.json",
        "steelyard import litellm-keys postgresql://reader@db/litellm",
        "steelyard import new-api one-api.db --pricing pricing.json",
        "steelyard import new-api one-api.db --pricing pricing.json --apply",
        "steelyard import one-api postgresql://reader@db/oneapi --prices model_prices.json",
    ),
)
def import_group() -> None:
    """Bring over what another system has: offers, prices, tenants, keys, balances. First as a dry run."""


@import_group.command("litellm")
@click.argument("config", type=click.Path(path_type=Path))
@_with(_OPTIONS)
@at_desk
def import_litellm(desk: Desk, show: Show, /, config: Path, **asked: Any) -> None:
    """Read LiteLLM's CONFIG.yaml; variables it names are taken from this environment."""
    today = iso_from_ns(desk.clock.now_ns())[:10]
    rounding = nearest_pico if asked["rounded"] else exactly
    read = Read(_facts(asked, today), os.environ, f"{today}T00:00:00Z", today, rounding)
    plan = litellm_plan(exact_yaml(read_text(config), str(config)), read)
    carry_out(desk, show, plan, asked["source"] or "litellm", asked)


@import_group.command("litellm-keys")
@click.argument("database")
@_with((*_OF_ALL, *_OF_TENANTS))
@at_desk
def import_litellm_keys(desk: Desk, show: Show, /, database: str, **asked: Any) -> None:
    """Read teams, users and virtual keys of LiteLLM's DATABASE, a postgresql:// URL."""
    source = asked["source"] or "litellm"
    with foreign_database(database) as foreign:
        plan = litellm_keys_plan(foreign, Tenancy(source, asked["prefix"], asked["loosen"], desk.clock.now_ns()))
    carry_out(desk, show, plan, source, asked | {"no_keys": True})


@import_group.command("new-api")
@click.argument("database")
@click.option("--pricing", type=click.Path(path_type=Path), metavar="FILE", help="What it answers at /api/pricing.")
@_with((*_OPTIONS, *_OF_TENANTS))
@at_desk
def import_new_api(desk: Desk, show: Show, /, database: str, pricing: Path | None, **asked: Any) -> None:
    """Read the DATABASE of new-api: a SQLite file or a postgresql:// URL."""
    _import_one_api(desk, show, "new-api", database, asked | {"pricing": pricing})


@import_group.command("one-api")
@click.argument("database")
@_with((*_OPTIONS, *_OF_TENANTS))
@at_desk
def import_one_api(desk: Desk, show: Show, /, database: str, **asked: Any) -> None:
    """Read the DATABASE of one-api: a SQLite file or a postgresql:// URL."""
    _import_one_api(desk, show, "one-api", database, asked | {"pricing": None})


def _import_one_api(desk: Desk, show: Show, system: str, database: str, asked: dict[str, Any]) -> None:
    today = iso_from_ns(desk.clock.now_ns())[:10]
    source = asked["source"] or system
    wanted = Wanted(
        facts=_facts(asked, today),
        tenancy=Tenancy(source, asked["prefix"], asked["loosen"], desk.clock.now_ns()),
        since=f"{today}T00:00:00Z",
        read_on=today,
        pricing=None if asked["pricing"] is None else read_json(asked["pricing"]),
        rounding=nearest_pico if asked["rounded"] else exactly,
    )
    with foreign_database(database) as foreign:
        plan = one_api_plan(foreign, SYSTEMS[system], wanted)
    carry_out(desk, show, plan, source, asked)


def _facts(asked: dict[str, Any], today: str) -> Facts:
    table = {} if asked["prices"] is None else read_json(asked["prices"])
    if not isinstance(table, dict):
        raise bad_request(f"{asked['prices']} is no price table of LiteLLM: it must be a JSON object.", "prices")
    return Facts(table, Assumed(asked["context"], asked["answer"]), today, _shipped())


def _shipped() -> dict[str, Shipped]:
    """Our own books, as readers of others' things know them."""
    found = {}
    for name in vendor_names():
        book = vendor_book(name)
        sizes = {
            model.upstream_model: {
                "max_input_tokens": model.context_tokens,
                "max_output_tokens": model.max_output_tokens,
            }
            for model in book.models
        }
        found[name] = Shipped(sizes, frozenset(cost.model for cost in book.costs), book.vendor.currency)
    return found


def carry_out(desk: Desk, show: Show, plan: Plan, source: str, asked: dict[str, Any]) -> None:
    """Have the plan made or tried, and tell. Exits with 1 when something was refused that was to be made."""
    apply = bool(asked["apply"])
    results = list(_results(desk, plan, source, dry=False)) if apply else _tried(desk, plan, source)
    rows = [
        {"op": step.op, "what": printable(step.what), "state": result["state"], "why": result.get("why", "")}
        for step, result in zip((step for group in plan.groups for step in group), results, strict=True)
    ]
    rows += [] if asked["no_keys"] else list(_keys(desk, plan.credentials, dry=not apply))
    counts = {state: sum(row["state"] == state for row in rows) for state in _STATES}
    if show.as_json:
        found = {"applied": apply, "counts": counts, "steps": rows, "left": msgspec.to_builtins(plan.left)}
        show.json(found | {"notes": plan.notes})
    else:
        _tell(show, plan, rows, counts, asked)
    if apply and counts["refused"]:
        raise SystemExit(1)


def _tried(desk: Desk, plan: Plan, source: str) -> list[dict[str, str]]:
    """A dry run, where there are no books yet: on empty ones."""
    if _has_no_books(desk):
        with tempfile.TemporaryDirectory() as root:
            data = DataDir(Path(root))
            data.prepare()
            data.root.joinpath("steelyard.db").touch()
            return list(_results(Desk(data, desk.clock), plan, source, dry=True))
    return list(_results(desk, plan, source, dry=True))


def _results(desk: Desk, plan: Plan, source: str, *, dry: bool) -> Iterator[dict[str, str]]:
    for steps in _portions(plan.groups):
        asked = {"source": source, "dry": dry, "actor": login()}
        sent = [{"op": step.op, "payload": step.payload} for step in steps]
        yield from desk.command("import", asked | {"steps": sent})


def _portions(groups: Sequence[tuple[Step, ...]]) -> Iterator[list[Step]]:
    """Groups together as far as they fit into one transaction of a moment; none is parted."""
    portion: list[Step] = []
    for group in groups:
        if portion and len(portion) + len(group) > limits.IMPORT_STEPS_AT_ONCE:
            yield portion
            portion = []
        portion = [*portion, *group]
    if portion:
        yield portion


def _keys(desk: Desk, keys: dict[str, str], *, dry: bool) -> Iterator[dict[str, str]]:
    """Keep the keys of upstreams, sealed, where none is kept."""
    kept = {}
    if keys and not _has_no_books(desk):
        with desk.read() as connection:
            kept = credentials(connection)
    for name, key in keys.items():
        row = {"op": "credential", "what": f"key of the upstream {name}", "state": "unchanged", "why": ""}
        if name not in kept:
            row["state"] = "created"
            try:
                if not dry:
                    keep_key(desk, name, key)
            except CallerError as error:
                row |= {"state": "refused", "why": error.message}
        yield row


def _has_no_books(desk: Desk) -> bool:
    return isinstance(desk.data.database, Path) and not desk.data.database.exists()


def _tell(show: Show, plan: Plan, rows: list[dict[str, str]], counts: dict[str, int], asked: dict[str, Any]) -> None:
    show.rows(rows, _STEPS, "Nothing can be brought over.")
    if plan.left:
        show.line()
        show.rows([{"what": printable(one.what), "why": printable(one.why)} for one in plan.left], _LEFT, "")
    show.line()
    for note in plan.notes:
        show.line(note)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    if asked["apply"]:
        show.line(f"Done: {told}; {len(plan.left)} remarks.")
    else:
        show.line(f"Dry run, nothing was written: {told}; {len(plan.left)} remarks. --apply does it.")
