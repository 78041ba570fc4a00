"""`steelyard vendor`: vendors of models, their keys and their books.

Keys are sealed here, before they go anywhere: neither the books nor their socket ever have one in the clear.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from steelyard.catalog.credentials import credentials, sealed_credentials
from steelyard.catalog.price_file import COST
from steelyard.catalog.standing import standing_at
from steelyard.catalog.store import models, tariffs_by_subject
from steelyard.catalog.vendor_books import VendorBook, vendor_book, vendor_names
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk
from steelyard.cli.price_rows import PRICE_COLUMNS, price_rows
from steelyard.cli.show import Show, count, words
from steelyard.config import load_settings
from steelyard.kernel.errors import CallerError, StartError, UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.upstream.sealed import Master, key_variable, shown_of

_UPSTREAMS = (
    words("Vendor", "upstream"),
    words("Kind", "kind"),
    words("Address", "address"),
    count("Models", "models"),
    words("Costs in", "currency"),
    words("Key", "key"),
)
_OFFERS = (
    words("Model", "model"),
    words("There called", "upstream_model"),
    count("Context", "context_tokens"),
    count("Answer at most", "max_output_tokens"),
)
_BALANCES = (
    words("Currency", "currency"),
    words("Left", "total"),
    words("Of which", "parts"),
    words("Usable", "usable"),
)


@click.group(
    cls=Listing,
    epilog=examples(
        "steelyard vendor add deepseek --markup 20",
        "printenv DEEPSEEK_API_KEY | steelyard vendor add deepseek --key-stdin",
        "steelyard vendor list",
        "steelyard vendor show deepseek",
        "steelyard vendor key deepseek",
    ),
)
def vendor() -> None:
    """Vendors of models: what they offer, what they cost, the keys they gave us."""


@vendor.command(
    "add",
    epilog=examples(
        "steelyard vendor add zhipu",
        "steelyard vendor add deepseek --model deepseek-flash --markup 20",
        "steelyard vendor add deepseek --model deepseek-flash=chat --as deepseek-2 --address https://proxy.example/v1",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("--model", "asked", multiple=True, metavar="MODEL", help="Only this one (MODEL=OURS: under our name).")
@click.option("--as", "upstream", metavar="NAME", help="What we call it, if not like the book.")
@click.option("--address", metavar="URL", help="Where it is, if not where the book says.")
@click.option("--key-stdin", is_flag=True, help="Read its key from standard input, or ask for it without echo.")
@click.option("--markup", metavar="PERCENT", help="Load prices as well: so much more than the costs.")
@click.option("--currency", metavar="CODE", help="Of these prices, if not that of the costs; needs a [[rate]].")
@at_desk
def vendor_add(desk: Desk, show: Show, /, name: str, asked: tuple[str, ...], key_stdin: bool, **rest: Any) -> None:
    """Offer the models of the vendor NAME and load its cost book. Doing it again changes only what differs."""
    payload: dict[str, Any] = {"vendor": name, "models": dict(_named(one) for one in asked)}
    payload |= {field: value for field, value in rest.items() if value is not None}
    upstream = payload.get("upstream", vendor_book(name).vendor.name)
    if key_stdin:
        key = read_key(upstream)
        payload |= {"token": Master(desk.data.master).seal(key), "shown": shown_of(key)}
    made = desk.command("vendor.add", payload)
    count_ = len(made["models"])
    show.say(
        f"{upstream} offers {count_} model{'' if count_ == 1 else 's'}; {made['inserted']} tariff versions loaded, "
        f"{made['unchanged']} unchanged.",
        made,
    )
    _say_what_is_missing(desk, show, (name, upstream), made["models"])


@vendor.command("list")
@at_desk
def vendor_list(desk: Desk, show: Show) -> None:
    """Every upstream with an offer or a key, and the vendors with a shipped book."""
    with desk.read() as connection:
        rows = _upstreams(connection)
    show.rows(rows, _UPSTREAMS, "No vendor is added yet: steelyard vendor add NAME")
    show.line(f"Books are shipped of: {', '.join(vendor_names())}")


@vendor.command("show", epilog=examples("steelyard vendor show deepseek", "steelyard vendor show zhipu --json"))
@click.argument("name")
@at_desk
def vendor_show(desk: Desk, show: Show, name: str) -> None:
    """What is offered at NAME and what it costs now; of a vendor that is not added, what its shipped book says."""
    now_ns = desk.clock.now_ns()
    with desk.read() as connection:
        offers = _offers_at(connection, name)
        versions = tariffs_by_subject(connection, COST).get(name, ())
        kept = credentials(connection).get(name)
    book = vendor_book(name) if name in vendor_names() else None
    if not offers and not versions:
        if book is None:
            raise _unknown(name)
        offers = _offers_of(book)
        versions = tuple(cost.tariff(0) for cost in book.costs)
        show.line(f"{name} is not added; this is what its shipped book says.")
    known = {"", *(offer["upstream_model"] for offer in offers)}  # what is history only stays in `prices list`
    standing = standing_at(COST, (one for one in versions if one.model in known), now_ns)
    if show.as_json:
        show.json({"offers": offers, "costs": standing, "key": kept, "vendor": book.vendor if book else None})
        return
    if book is not None:
        show.line(f"{book.vendor.title} · {book.vendor.docs}")
    show.line(f"Key: {_key_words(name, kept.shown if kept else None)}")
    show.rows(offers, _OFFERS, "Nothing is offered there.")
    show.rows(price_rows(standing), PRICE_COLUMNS, "No cost is loaded.")


@vendor.command("remove")
@click.argument("name")
@at_desk
def vendor_remove(desk: Desk, show: Show, name: str) -> None:
    """Offer nothing at NAME any more and forget its key; its costs stay in the books."""
    done = desk.command("vendor.remove", {"upstream": name})
    if not done["offers"] and not done["key"]:
        raise CallerError(404, "unknown_vendor", f"Nothing is offered at {name!r}, and no key of it is kept.")
    key = " Its key is forgotten." if done["key"] else ""
    show.say(f"{done['offers']} offers at {name} are withdrawn.{key}", done)


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


@vendor.command("balance")
@click.argument("name")
@at_desk
def vendor_balance(desk: Desk, show: Show, name: str) -> None:
    """Ask the vendor NAME what is left of our money there, with the key that is kept or in the environment."""
    with desk.read() as connection:
        offers = [offer for model in models(connection).values() for offer in model.offers if offer.upstream == name]
        token = sealed_credentials(connection).get(name)
    if not offers:
        raise _unknown(name)
    key = os.environ.get(key_variable(name), "").strip()
    if not key and token is not None:
        try:
            key = Master(desk.data.master).open(token)
        except StartError as error:
            raise StartError(f"{name} has a key that {error}.") from None
    told = asyncio.run(_balance(offers[0], key, load_settings(data=desk.data.root).ca_file))
    if told is None:
        show.say(f"{name} cannot be asked what is left: its kind ({offers[0].kind}) has no place for it.", None)
        return
    rows = [
        {
            "currency": one.currency,
            "total": one.total,
            "parts": ", ".join(f"{part} {amount}" for part, amount in one.parts.items()),
            "usable": "yes" if one.usable else "no",
        }
        for one in told
    ]
    show.rows(rows, _BALANCES, "The vendor names no currency.")


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


async def _balance(offer: Offer, key: str, ca_file: Path | None) -> Any:
    from steelyard.upstream.kinds import ByKind
    from steelyard.upstream.pool import Pool
    from steelyard.upstream.trust import Trust

    pool = Pool(Trust.of(ca_file))
    try:
        return await ByKind(offer.upstream, pool, key).balance(offer)
    except UpstreamError as error:
        raise StartError(f"{offer.upstream} {error}.") from None
    finally:
        await pool.close()


def _named(one: str) -> tuple[str, str]:
    theirs, _, ours = one.partition("=")
    return theirs, ours or theirs


def _unknown(name: str) -> CallerError:
    return CallerError(404, "unknown_vendor", f"Nothing is offered at {name!r}. Add it: steelyard vendor add {name}")


def _say_what_is_missing(desk: Desk, show: Show, called: tuple[str, str], names: list[str]) -> None:
    """`called`: by its book, and by us."""
    book, upstream = called
    with desk.read() as connection:
        priced = tariffs_by_subject(connection, "price")
        key = credentials(connection).get(upstream)
    if key is None and not os.environ.get(key_variable(upstream)):
        line = f"It has no key yet: steelyard vendor key {upstream} (or {key_variable(upstream)})."
        usual = vendor_book(book).vendor.key_variable
        if os.environ.get(usual):
            line += f" There is one in {usual}: add --from-env {usual} to keep it."
        show.line(line)
    if without := [name for name in names if name not in priced]:
        show.line(f"Without a price, so not sold yet: {', '.join(without)}. Load some, or add --markup PERCENT.")


def _offers_at(connection: Connection, upstream: str) -> list[dict[str, Any]]:
    found = (offer for model in models(connection).values() for offer in model.offers if offer.upstream == upstream)
    return [{field: getattr(offer, field) for field in (*_OFFER_FIELDS, "model")} for offer in found]


_OFFER_FIELDS = ("upstream_model", "context_tokens", "max_output_tokens", "kind", "address")


def _offers_of(book: VendorBook) -> list[dict[str, Any]]:
    return [
        {
            "model": one.upstream_model,
            "upstream_model": one.upstream_model,
            "context_tokens": one.context_tokens,
            "max_output_tokens": one.max_output_tokens,
            "kind": book.vendor.kind,
            "address": book.vendor.address,
        }
        for one in book.models
    ]


def _upstreams(connection: Connection) -> list[dict[str, Any]]:
    offered: dict[str, list[Offer]] = {}
    for model in models(connection).values():
        for offer in model.offers:
            offered.setdefault(offer.upstream, []).append(offer)
    kept, costs = credentials(connection), tariffs_by_subject(connection, COST)
    return [
        {
            "upstream": name,
            "kind": offered[name][0].kind if name in offered else None,
            "address": offered[name][0].address if name in offered else None,
            "models": len(offered.get(name, ())),
            "currency": ", ".join(sorted({one.currency for one in costs.get(name, ())})),
            "key": _key_words(name, kept[name].shown if name in kept else None),
        }
        for name in sorted({*offered, *kept})
    ]


def _key_words(upstream: str, shown: str | None) -> str:
    """Where its key is. The environment comes first, as with the workers; it is only known of where this runs."""
    if os.environ.get(key_variable(upstream), "").strip():
        return "environment"
    return shown or "none"
