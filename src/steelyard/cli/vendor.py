"""`steelyard vendor`: vendors of models, their keys and their books.

Keys are sealed here, before they go anywhere: neither the books nor their socket ever have one in the clear.
"""

import os
import sys

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk
from steelyard.cli.show import Show
from steelyard.kernel.errors import StartError
from steelyard.upstream.sealed import Master, shown_of


@click.group(
    epilog=examples(
        "steelyard vendor key deepseek",
        "printenv DEEPSEEK_API_KEY | steelyard vendor key deepseek",
    )
)
def vendor() -> None:
    """Vendors of models: what they offer, what they cost, the keys they gave us."""


@vendor.command("key", epilog=examples("steelyard vendor key deepseek", "steelyard vendor key deepseek --forget"))
@click.argument("name")
@click.option("--from-env", "variable", metavar="VARIABLE", help="Take the key from this environment variable.")
@click.option("--forget", is_flag=True, help="Keep no key for it any more.")
@at_desk
def vendor_key(desk: Desk, show: Show, name: str, variable: str | None, forget: bool) -> None:
    """Keep the key of the vendor NAME, or another in its place; workers use it within a second.

    It is asked for without echo, or read from standard input when that is no terminal.
    """
    if forget:
        done = desk.command("credential.drop", {"upstream": name})
        show.say(f"No key is kept for {name}." if done["dropped"] else f"None was kept for {name}.", done)
        return
    kept = keep_key(desk, name, read_key(name, variable))
    show.say(f"The key of {name} ({kept['shown']}) is kept, sealed.", kept)


def keep_key(desk: Desk, name: str, key: str) -> dict[str, str]:
    """Seal a key and give it to the books."""
    token = Master(desk.data.master).seal(key)
    kept: dict[str, str] = desk.command("credential.set", {"upstream": name, "token": token, "shown": shown_of(key)})
    return kept


def read_key(name: str, variable: str | None = None) -> str:
    """A key from a variable, a hidden prompt or standard input. Raises StartError when the variable has none."""
    if variable is not None:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise StartError(f"The environment variable {variable} is not set.")
        return key
    if sys.stdin.isatty():
        return str(click.prompt(f"Key of {name}", hide_input=True)).strip()
    return sys.stdin.readline().strip()
