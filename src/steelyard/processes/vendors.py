"""Commands of the office about vendors: their keys, their offers, their books. Knows no network and opens no key."""

import msgspec
from sqlalchemy import Connection

from steelyard.catalog.credentials import drop_credential, put_credential
from steelyard.catalog.markup import Wish, marked_up_from_now
from steelyard.catalog.price_file import RATE
from steelyard.catalog.store import (
    Registration,
    load_price_file,
    models,
    register_model,
    tariffs_by_subject,
    withdraw_upstream,
)
from steelyard.catalog.vendor_books import VendorBook, VendorModel, vendor_book
from steelyard.kernel.clock import Clock, iso_from_ns
from steelyard.kernel.errors import bad_request
from steelyard.kernel.frozen import Record
from steelyard.processes.outcome import Outcome
from steelyard.processes.payload import Payload, text_of
from steelyard.processes.snapshot import new_snapshot

_ANSWER_TOKENS_DEFAULT = 4096  # of an answer for which the customer names no bound; thinking is a part of it


class VendorAsked(Record, frozen=True):
    """What `vendor.add` takes. `models`: the vendor's name of each → ours; empty: all of the book, by his names."""

    vendor: str
    upstream: str = ""  # empty: like the vendor
    address: str = ""  # empty: the vendor's
    models: dict[str, str] = msgspec.field(default_factory=dict)
    markup: str = ""  # percent on the costs; empty: no prices are loaded
    currency: str = ""  # of the prices; empty: that of the costs
    token: str = ""  # his key, sealed
    shown: str = ""


def vendor_add(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Offer a vendor's models and load what they cost, in one transaction. Doing it again changes only what differs."""
    try:
        asked = msgspec.convert(payload, VendorAsked)
    except msgspec.ValidationError as error:
        raise bad_request(f"The vendor cannot be added: {error}.") from None
    book, now_ns = vendor_book(asked.vendor), clock.now_ns()
    upstream = asked.upstream or book.vendor.name
    names = asked.models or {model.upstream_model: model.upstream_model for model in book.models}
    costs = book.costs_of(upstream)
    before = models(connection)
    for theirs, ours in names.items():
        register_model(connection, _registration(book, book.model(theirs), ours, asked), now_ns)
    rates = tariffs_by_subject(connection, RATE)
    prices = marked_up_from_now(costs, names, Wish(asked.markup, asked.currency), rates, now_ns) if asked.markup else ()
    loaded = load_price_file(connection, (*costs, *prices), now_ns)
    if asked.token:
        put_credential(connection, upstream, asked.token, asked.shown, now_ns)
    changed = bool(loaded.inserted or asked.token) or models(connection) != before
    reply = {
        "vendor": book.vendor.name,
        "upstream": upstream,
        "models": sorted(names.values()),
        "inserted": len(loaded.inserted),
        "unchanged": loaded.unchanged,
        "changed": changed,
    }
    return Outcome(reply, snapshot=new_snapshot(connection) if changed else None)


def vendor_remove(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Offer nothing there any more and forget its key. Its costs stay: what was used is still to be rated by them."""
    upstream = text_of(payload, "upstream")
    offers, key = withdraw_upstream(connection, upstream), drop_credential(connection, upstream)
    changed = bool(offers) or key
    return Outcome({"offers": offers, "key": key}, snapshot=new_snapshot(connection) if changed else None)


def _registration(book: VendorBook, model: VendorModel, name: str, asked: VendorAsked) -> Registration:
    return Registration(
        name=name,
        upstream=asked.upstream or book.vendor.name,
        address=asked.address or book.vendor.address,
        upstream_model=model.upstream_model,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        default_max_tokens=min(_ANSWER_TOKENS_DEFAULT, model.max_output_tokens),
        kind=book.vendor.kind,
        capabilities=model.capabilities,
    )


def credential_set(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Keep a sealed key; workers use it within a second."""
    upstream, shown, now_ns = text_of(payload, "upstream"), text_of(payload, "shown"), clock.now_ns()
    put_credential(connection, upstream, text_of(payload, "token"), shown, now_ns)
    reply = {"upstream": upstream, "shown": shown, "set_at": iso_from_ns(now_ns)}
    return Outcome(reply, snapshot=new_snapshot(connection))


def credential_drop(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Forget the key of an upstream."""
    dropped = drop_credential(connection, text_of(payload, "upstream"))
    return Outcome({"dropped": dropped}, snapshot=new_snapshot(connection) if dropped else None)
