"""`steelyard import`: bring over what another system has. A dry run unless --apply is given.

Owns the report and the order; readers are in `imports/`, what is made is made by the books (`processes.importing`). A
key of an upstream is shown nowhere: `--env` writes it into a file of the operator's only.
"""

import getpass
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.price_import import read_json
from steelyard.cli.show import Show, words
from steelyard.imports.amounts import exactly, nearest_pico
from steelyard.imports.foreign_database import foreign_database
from steelyard.imports.model_facts import Assumed, Facts
from steelyard.imports.one_api import SYSTEMS, Wanted, one_api_plan
from steelyard.imports.plan import Plan, Step
from steelyard.imports.tokens import Tenancy
from steelyard.kernel import limits
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import StartError, bad_request
from steelyard.processes.upstreams import key_variable

_STATES = ("created", "changed", "unchanged", "refused")
_STEPS = (words("Step", "op"), words("What", "what"), words("State", "state"), words("Why", "why"))
_LEFT = (words("Stays behind", "what"), words("Why", "why"))

_OPTIONS = (
    click.option("--apply", is_flag=True, help="Do it. Without this nothing is written."),
    click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="LiteLLM's price table."),
    click.option("--round", "rounded", is_flag=True, help="Round prices that have more decimals than the books keep."),
    click.option("--context", type=click.IntRange(1), default=131_072, show_default=True, help="Tokens, if unknown."),
    click.option("--answer", type=click.IntRange(1), default=8192, show_default=True, help="Tokens, if unknown."),
    click.option("--env", type=click.Path(path_type=Path), metavar="FILE", help="Write upstreams' keys there."),
    click.option("--source", metavar="NAME", help="What that installation is called, if you have several."),
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
    epilog=examples(
        "steelyard import new-api one-api.db --pricing pricing.json",
        "steelyard import new-api one-api.db --pricing pricing.json --apply",
        "steelyard import one-api postgresql://reader@db/oneapi --prices model_prices.json",
    ),
)
def import_group() -> None:
    """Bring over what another system has: offers, prices, tenants, keys, balances. First as a dry run."""


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
        tenancy=Tenancy(source, asked["prefix"], asked["loosen"]),
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
    return Facts(table, Assumed(asked["context"], asked["answer"]), today)


def carry_out(desk: Desk, show: Show, plan: Plan, source: str, asked: dict[str, Any]) -> None:
    """Have the plan made or tried, and tell. Exits with 1 when something was refused that was to be made."""
    apply = bool(asked["apply"])
    if apply and asked["env"] is not None:
        _write_keys(asked["env"], plan.credentials)
    results = list(_results(desk, plan, source, dry=False)) if apply else _tried(desk, plan, source)
    rows = [
        {"op": step.op, "what": step.what, "state": result["state"], "why": result.get("why", "")}
        for step, result in zip((step for group in plan.groups for step in group), results, strict=True)
    ]
    counts = {state: sum(row["state"] == state for row in rows) for state in _STATES}
    if show.as_json:
        found = {"applied": apply, "counts": counts, "steps": rows, "left": msgspec.to_builtins(plan.left)}
        show.json(found | {"notes": _notes(plan, asked)})
    else:
        _tell(show, plan, rows, counts, asked)
    if apply and counts["refused"]:
        raise SystemExit(1)


def _tried(desk: Desk, plan: Plan, source: str) -> list[dict[str, str]]:
    """A dry run, where there are no books yet: on empty ones."""
    if isinstance(desk.data.database, Path) and not desk.data.database.exists():
        with tempfile.TemporaryDirectory() as root:
            data = DataDir(Path(root))
            data.prepare()
            data.root.joinpath("steelyard.db").touch()
            return list(_results(Desk(data, desk.clock), plan, source, dry=True))
    return list(_results(desk, plan, source, dry=True))


def _results(desk: Desk, plan: Plan, source: str, *, dry: bool) -> Iterator[dict[str, str]]:
    for steps in _portions(plan.groups):
        asked = {"source": source, "dry": dry, "actor": getpass.getuser()}
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


def _write_keys(file: Path, credentials: dict[str, str]) -> None:
    """For the environment of `steelyard up`. The file is the operator's alone, and no file is written over."""
    lines = "".join(f"{key_variable(name)}={shlex.quote(key)}\n" for name, key in credentials.items())
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StartError(f"{file} exists. Name a new file for the keys.") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(lines)


def _notes(plan: Plan, asked: dict[str, Any]) -> list[str]:
    notes = list(plan.notes)
    if plan.credentials:
        where = asked["env"] or "a file that --env names, for the environment of `steelyard up`"
        notes.append(f"The keys of {len(plan.credentials)} upstreams are written with --apply into {where}.")
    return notes


def _tell(show: Show, plan: Plan, rows: list[dict[str, str]], counts: dict[str, int], asked: dict[str, Any]) -> None:
    show.rows(rows, _STEPS, "Nothing can be brought over.")
    if plan.left:
        show.line()
        show.rows(plan.left, _LEFT, "")
    show.line()
    for note in _notes(plan, asked):
        show.line(note)
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    if asked["apply"]:
        show.line(f"Done: {told}; {len(plan.left)} remarks.")
    else:
        show.line(f"Dry run, nothing was written: {told}; {len(plan.left)} remarks. --apply does it.")
