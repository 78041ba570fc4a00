"""`steelyard route`: which offer of a model is asked first, and what each may be asked for."""

from typing import Any

import click

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.explain import route_explain
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.show import Column, Row, Show, count, words
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.routes import Guard, Policy

_ANY = click.IntRange(0, limits.RATE_MAX)


def _joined(name: str, title: str) -> Column:
    return Column(title, lambda row: ", ".join(row[name]) or "–")


def _bound(name: str, title: str) -> Column:
    return Column(title, lambda row: f"{row[name]:,}" if row[name] else "–", right=True)


def _whose(row: Row) -> str:
    return f"{row['scope']} {row['subject']}"


_RULES = (
    Column("Whose", _whose),
    words("Policy", "policy"),
    _joined("pinned", "Pinned to"),
    words("Guard", "guard"),
    _joined("fallbacks", "Fallbacks"),
    _bound("answers_s", "Answers kept, s"),
)
_OFFERS = (
    words("Model", "model"),
    words("Upstream", "upstream"),
    words("There", "upstream_model"),
    count("Weight", "weight"),
    _bound("concurrency", "At once"),
    _bound("rpm", "A minute"),
    _bound("tpm", "Tokens a minute"),
    _bound("first_token_s", "First word, s"),
)


_POLICIES = [*(one.value for one in Policy), "none"]  # of an enum itself click takes the names
_GUARDS = [*(one.value for one in Guard), "none"]


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard route set --model deepseek-flash --policy cheapest --guard reroute",
        "steelyard route set --model glm-5 --pin zhipu --pin ark",
        "steelyard route set --key 7 --policy fastest --fallback qwen3-max",
        "steelyard route set --key 7 --answers 3600",
        "steelyard route offer deepseek-flash deepseek --concurrency 200 --tpm 1000000",
        "steelyard route alias gpt-4o-mini deepseek-flash",
        "steelyard route retry zhipu",
        "steelyard route explain deepseek-flash --prompt ./long.txt",
    ),
)
def route() -> None:
    """Routing: which offer of a model is asked first, and what each may be asked for."""


@route.command("set")
@click.option("--model", metavar="NAME", help="The rule of this model …")
@click.option("--key", metavar="ID", type=int, help="… or of this key, which goes before it.")
@click.option("--policy", type=click.Choice(_POLICIES), help="What the order is made of.")
@click.option("--pin", "pinned", multiple=True, metavar="UPSTREAM", help="Only these, in this order; repeatable.")
@click.option("--guard", type=click.Choice(_GUARDS), help="What becomes of a loss (models only).")
@click.option(
    "--fallback", "fallbacks", multiple=True, metavar="MODEL", help="May answer instead (keys only); repeatable."
)
@click.option(
    "--answers",
    "answers_s",
    type=click.IntRange(0, limits.ANSWER_CACHED_S_MAX),
    metavar="SECONDS",
    help="The same request gets the same answer for so long, at its own price; 0 stops that (keys only).",
)
@at_desk
def route_set(desk: Desk, show: Show, /, **asked: Any) -> None:
    """Change the rule of a model or a key; what is not named stays as it is, `none` takes it out."""
    named = {name: value for name, value in asked.items() if value not in {None, ()}}
    rule = desk.command("route.set", {name: "" if value == "none" else value for name, value in named.items()})
    show.rows([rule], _RULES, "")


@route.command("clear")
@click.option("--model", metavar="NAME", help="Of this model …")
@click.option("--key", metavar="ID", type=int, help="… or of this key.")
@at_desk
def route_clear(desk: Desk, show: Show, /, **asked: Any) -> None:
    """Give up the rule of a model or a key."""
    done = desk.command("route.clear", {name: value for name, value in asked.items() if value is not None})
    if not done["cleared"]:
        raise CallerError(404, "rule_not_found", "There is no such rule. See: steelyard route list")
    show.say("The rule is given up.", done)


@route.command("list")
@at_desk
def route_list(desk: Desk, show: Show) -> None:
    """All rules and aliases."""
    found = desk.command("route.list", {})
    if show.as_json:
        show.json(found)
        return
    show.rows(found["routes"], _RULES, "There is no rule: every model is routed as `balanced`.")
    if found["aliases"]:
        show.rows(found["aliases"], (words("Alias", "name"), words("Model", "model")), "")


@route.command("show")
@click.argument("model")
@at_desk
def route_show(desk: Desk, show: Show, model: str) -> None:
    """The rule of MODEL, and its offers with their weights and bounds."""
    found = desk.command("route.show", {"model": model})
    if show.as_json:
        show.json(found)
        return
    show.rows([found["route"]] if found["route"] else [], _RULES, f"{found['model']} has no rule of its own.")
    show.rows(found["offers"], _OFFERS, "It is offered nowhere at the moment.")


@route.command("offer")
@click.argument("model")
@click.argument("upstream")
@click.option("--weight", type=click.IntRange(1, limits.OFFER_WEIGHT_MAX), help="Twice the weight halves its score.")
@click.option("--concurrency", type=_ANY, help="Calls at the same time; 0 lifts the bound.")
@click.option("--rpm", type=_ANY, help="Calls a minute.")
@click.option("--tpm", type=_ANY, help="Tokens a minute, prompt and output.")
@click.option(
    "--first-token",
    "first_token_s",
    type=click.IntRange(0, limits.UPSTREAM_FIRST_BYTE_S),
    metavar="SECONDS",
    help="Leave it for another offer when it has said nothing by then.",
)
@at_desk
def route_offer(desk: Desk, show: Show, /, **asked: Any) -> None:
    """Bound the offer of MODEL at UPSTREAM, or give it another weight."""
    changed = desk.command("route.offer", {name: value for name, value in asked.items() if value is not None})
    show.rows([changed], _OFFERS, "")


@route.command("alias")
@click.argument("name")
@click.argument("model", required=False)
@click.option("--drop", is_flag=True, help="Give NAME up.")
@at_desk
def route_alias(desk: Desk, show: Show, name: str, model: str | None, drop: bool) -> None:
    """Sell MODEL under NAME as well. Its own price, limits and receipts count."""
    if drop == (model is not None):
        raise click.UsageError("Name a MODEL, or --drop.")
    done = desk.command("route.alias", {"name": name, "model": model})
    show.say(f"{name} is given up." if drop else f"{name} is {model} now.", done)


@route.command("retry")
@click.argument("upstream")
@at_desk
def route_retry(desk: Desk, show: Show, upstream: str) -> None:
    """Have UPSTREAM asked again at once: its account is paid, its key is right, its breaker is closed."""
    show.say(f"{upstream} is asked again.", desk.command("route.retry", {"upstream": upstream}))


route.add_command(route_explain)
