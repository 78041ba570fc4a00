"""`steelyard prove`: the public demonstration that a crash costs nobody a token or a nano.

Owns the private directory, the seed, the table and the exit code. What happens in between is `cli.campaign`.
"""

import asyncio
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from random import Random  # noqa: TID251 - here the seed becomes what everything else takes as an argument
from typing import Any

import click

from steelyard.cli.bar import Bar
from steelyard.cli.campaign import Campaign, Plan
from steelyard.cli.directory import directory_lock
from steelyard.cli.epilog import examples
from steelyard.cli.options import json_option
from steelyard.cli.reports import checked
from steelyard.cli.services import check_space, reserve_port
from steelyard.cli.show import Show, count, words
from steelyard.config import Settings, directory_of, load_settings
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.errors import SteelyardError
from steelyard.processes.customers import Dice
from steelyard.processes.score import Score
from steelyard.upstream.weights import kept

_HOST = "127.0.0.1"
_WORKERS = 3
_DRAIN_S = 5


@click.command(
    "prove", epilog=examples("steelyard prove", "steelyard prove --kills 20 --no-engine", "steelyard prove --json")
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
@json_option
def prove(kills: int, seed: int | None, no_engine: bool, as_json: bool) -> None:
    """Kill a private platform at random under load, then compare what arrived with what was billed.

    Exit code 0 only when nothing was over-billed, lost, counted twice or overspent, and `verify` finds the books sound.
    """
    show = Show(as_json)
    clock = SystemClock()
    seed = Random().randrange(2**32) if seed is None else seed  # noqa: S311 - a proof is no secret
    root = Path(tempfile.mkdtemp(prefix="steelyard-prove-"))
    weights = None if no_engine else kept()
    settings = load_settings(
        data=root,
        database="",
        host=_HOST,
        port=_free_port(),
        workers=_WORKERS,
        drain_s=_DRAIN_S,
        engine=weights is not None,
    )
    show.line(f"Seed {seed}: {kills} kills amid {_upstreams(weights is not None)}, in {root}.")
    started_ns = clock.monotonic_ns()
    try:
        result, found = _run(Plan(kills, weights, _free_port(), lambda name: _dice(seed, name)), settings, clock)
    except SteelyardError as error:
        print(f"The logs are kept in {root}, seed {seed}.", file=sys.stderr)
        raise error
    _show(show, result, found)
    ok = result.ok and found["ok"]
    seconds = (clock.monotonic_ns() - started_ns) // 10**9
    if ok:
        shutil.rmtree(root, ignore_errors=True)
        show.line(f"Proved in {seconds} s: the zeros are zeros, and the books are sound.")
        return
    print(f"NOT proved. Everything is kept in {root}, seed {seed}.", file=sys.stderr)
    raise SystemExit(1)


def _run(plan: Plan, settings: Settings, clock: SystemClock) -> tuple[Score, dict[str, Any]]:
    data = directory_of(settings)
    data.prepare()
    with directory_lock(data, clock) as lock, reserve_port(settings.host, settings.port):
        check_space(settings)
        with Bar("Killing", clock) as bar:
            return asyncio.run(Campaign(plan, settings, lock, clock).run(checked, bar))


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
