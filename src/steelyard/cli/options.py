"""The options every command shares, and what they become: a desk at the books and a way to show the answer."""

import functools
import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from steelyard.cli.desk import Desk
from steelyard.cli.show import Show
from steelyard.config import SETTINGS_FILE, directory_of, load_settings
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DATABASE_VARIABLE, DatabaseUrl
from steelyard.kernel.errors import StartError

Parameters = ParamSpec("Parameters")


class _Workers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """A number, or the word that leaves it to the settings."""

    name = f"[auto|1-{limits.WORKERS_MAX}]"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).lower() == "auto":
            return "auto"
        return click.IntRange(1, limits.WORKERS_MAX).convert(value, param, ctx)


WORKERS = _Workers()

data_option = click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="The data directory (default: ./steelyard-data)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
since_option = click.option(
    "--since", metavar="WHEN", help="From: a date, a time, or an age such as 7d (default: the beginning)."
)
until_option = click.option("--until", metavar="WHEN", help="Up to, excluded: a date, a time or an age (default: now).")


def login() -> str:
    """Who types: the name of his login, or its number where the system has no name for it, as in many a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return f"uid {os.getuid()}"


def refuse_password(url: str | None) -> None:
    """For a --database option. Raises StartError when the URL carries a password."""
    if not url:
        return
    from steelyard.storage.postgres import has_password  # SQLAlchemy, which a start can do without

    if has_password(DatabaseUrl(url)):
        raise StartError(
            "A command line is seen by everybody on this machine, so --database takes no password. "
            f"Put the URL into {DATABASE_VARIABLE} or {SETTINGS_FILE}, or the password into PGPASSWORD or ~/.pgpass."
        )


def at_desk(command: Callable[Concatenate[Desk, Show, Parameters], None]) -> Callable[..., None]:
    """Give the command a desk and a show, made from --data and --json."""

    @data_option
    @json_option
    @functools.wraps(command)
    def run(data: Path | None, as_json: bool, **rest: Any) -> None:
        desk = Desk(directory_of(load_settings(data=data)), SystemClock())
        command(desk, Show(as_json), **rest)  # type: ignore[call-arg]

    return run
