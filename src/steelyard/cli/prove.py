"""`steelyard prove`: the public demonstration that a crash costs nobody a token or a nano.

Owns the private directory, the seed, the table and the exit code. What happens in between is `cli.campaign`.
"""

import asyncio
import shutil
import socket
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from random import Random  # noqa: TID251 - here the seed becomes what everything else takes as an argument
from typing import Any

import click

from steelyard.cli.bar import Bar
from steelyard.cli.campaign import Campaign, Plan
from steelyard.cli.directory import directory_lock
from steelyard.cli.epilog import examples
from steelyard.cli.options import json_option, refuse_password
from steelyard.cli.private_postgres import empty_database, private_postgres
from steelyard.cli.reports import checked
from steelyard.cli.services import check_space, reserve_port
from steelyard.cli.show import Show, count, words
from steelyard.config import Settings, directory_of, load_settings
from steelyard.engines.choice import NONE, XLLAMACPP
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError, SteelyardError
from steelyard.processes.customers import Dice
from steelyard.processes.score import Score
from steelyard.upstream.weights import kept

_HOST = "127.0.0.1"
_WORKERS = 3
_DRAIN_S = 5


@click.command(
    "prove", epilog=examples("steelyard prove", "steelyard prove --kills 20 --no-engine", "steelyard prove --postgres")
)
@click.option(
    "--kills",
    type=click.IntRange(1, limits.PROVE_KILLS_MAX),
    default=200,
    show_default=True,
    help="How many processes to kill.",
)
@click.option("--seed", type=int, help="Draw the same load and kills as the run that showed this seed.")
@click.option("--no-engine", is_flag=True, help="Without the real engine: the scripted upstream only.")
@click.option("--postgres", is_flag=True, help="Keep the books in a private PostgreSQL instead of SQLite.")
@click.option("--database", metavar="URL", help="Keep them in this PostgreSQL database, which must be empty.")
@json_option
def prove(kills: int, seed: int | None, no_engine: bool, postgres: bool, database: str | None, as_json: bool) -> None:
    """Kill a private platform at random under load, then compare what arrived with what was billed.

    Exit code 0 only when nothing was over-billed, lost, counted twice or overspent, and `verify` finds the books sound.
    """
    if postgres and database:
        raise click.UsageError("--postgres starts a database of its own, --database names one: give one of them.")
    refuse_password(database)
    show = Show(as_json)
    seed = Random().randrange(2**32) if seed is None else seed  # noqa: S311 - a proof is no secret
    root = Path(tempfile.mkdtemp(prefix="steelyard-prove-"))
    weights = None if no_engine else kept()
    plan = Plan(kills, weights, _free_port(), lambda name: _dice(seed, name))
    show.line(f"Seed {seed}: {kills} kills amid {_upstreams(weights is not None)}, in {root}.")
    try:
        with _books_place(root, postgres, database) as url:
            settings = _settings(root, url, engine=weights is not None)
            if not _proved(plan, settings, show):
                raise BooksError("NOT proved: a number that must be 0 is not, or the books are not sound.")
    except SteelyardError as error:
        with suppress(OSError):
            root.rmdir()  # nothing was begun
        if root.exists():
            print(f"Everything is kept in {root}, seed {seed}.", file=sys.stderr)
        raise error
    for place in {DataDir(root).socket.parent, root}:  # the socket's own directory, when `root` has too long a name
        shutil.rmtree(place, ignore_errors=True)


def _books_place(root: Path, postgres: bool, database: str | None) -> AbstractContextManager[str]:
    if database:
        return empty_database(database)
    return private_postgres(root / "postgres") if postgres else nullcontext("")


def _settings(root: Path, url: str, *, engine: bool) -> Settings:
    ports = {"host": _HOST, "port": _free_port()}
    return load_settings(
        data=root, database=url, workers=_WORKERS, drain_s=_DRAIN_S, engine=XLLAMACPP if engine else NONE, **ports
    )


def _proved(plan: Plan, settings: Settings, show: Show) -> bool:
    """Run the campaign and show its outcome."""
    clock = SystemClock()
    started_ns = clock.monotonic_ns()
    data = directory_of(settings)
    data.prepare()
    with directory_lock(data, clock) as lock, reserve_port(settings.host, settings.port):
        check_space(settings)
        with Bar("Killing", clock) as bar:
            result, found = asyncio.run(Campaign(plan, settings, lock, clock).run(checked, bar))
    seconds = (clock.monotonic_ns() - started_ns) // 10**9
    _show(show, result, found)
    if not (result.ok and found["ok"]):
        return False
    show.line(
        f"Proved in {seconds} s, {result.requests // plan.kills} requests for each kill: the zeros are zeros, "
        "and the books are sound."
    )
    return True


def _dice(seed: int, name: str) -> Dice:
    return Random(f"{seed} {name}")  # noqa: S311 - a proof is no secret


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _upstreams(engine: bool) -> str:
    return "answers of the engine and of a scripted upstream" if engine else "answers of a scripted upstream"


def _show(show: Show, result: Score, found: dict[str, Any]) -> None:
    if show.as_json:
        show.json(result)
    else:
        fields = [(name, getattr(result, name)) for name in result.__struct_fields__]
        rows = [{"what": name.replace("_", " "), "count": value} for name, value in fields]
        show.rows(rows, (words("What", "what"), count("Count", "count")), "")
    broken = [finding for finding in found["findings"] if not finding["ok"]]
    for finding in broken:
        print(f"{finding['invariant']} FAILED: {finding['detail']}", file=sys.stderr)
