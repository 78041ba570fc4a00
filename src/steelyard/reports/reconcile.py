"""Compares a vendor's bill with what we have booked as payable to him, line by line, and gives each difference a name.

By request where the bill has our ids, else by model and day or hour. Reads only; what is to be adjusted is proposed
here and posted by `ledger.reconciliation`. Integers only, in the vendor's currency.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, select

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.ledger.chain import heard_from_text
from steelyard.ledger.reconciliation import adjusted_before
from steelyard.reports.bill_file import Bill, BillLine, bounds
from steelyard.storage import tables

_STREAMED = {"yield_per": 1000}


class Name(StrEnum):
    """What a difference is."""

    MISSING = "missing"  # booked, not billed
    EXTRA = "extra"  # billed, not booked
    CACHE = "cache semantics"  # as many tokens, otherwise shared out between fresh and cached, or cached ones twice
    WINDOW = "clock window"  # on the other side of midnight (or the hour): the neighbour has the same the other way
    ROUNDING = "rounding"  # the same counts, less than the last decimal of each request apart
    ESTIMATE = "estimate trued up"  # ours was estimated: the answer was cut, or its counts are our own
    COUNTS = "counts"  # other counts than we were told
    PRICE = "price"  # the same counts at another price


STAYS = frozenset({Name.MISSING, Name.WINDOW})
"""What is not adjusted: it may stand on another bill."""


class Difference(Record, frozen=True):
    """One line of the bill, or one place of our books, where the two differ. Tokens are prompt and output."""

    place: str  # "req_…", or the model and its day
    name: Name
    requests: int  # ours
    tokens: int  # ours
    billed_tokens: int | None
    ours_nano: int
    theirs_nano: int
    difference_nano: int  # theirs − ours
    currency: str


class Reconciliation(Record, frozen=True):
    """A whole bill against the books. `adjust_nano` is to be added to what is payable, below zero taken from it."""

    vendor: str
    file: str  # SHA-256 of the bill, hexadecimal
    currency: str
    since_ns: int
    until_ns: int
    agreed: int  # places where both say the same
    ours_nano: int
    theirs_nano: int
    adjusted_before_nano: int  # by earlier bills of this very period
    adjust_nano: int
    differences: tuple[Difference, ...]


class Side:
    """What one of the two says of a request, or of a model's day."""

    __slots__ = ("amount", "counted", "estimated", "requests", "step", "usage")

    def __init__(self) -> None:
        self.amount = self.requests = 0
        self.step = 1
        self.usage = Usage()
        self.counted = True  # it tells tokens
        self.estimated = False

    def add(self, usage: Usage | None, amount: int, requests: int) -> None:
        self.amount += amount
        self.requests += requests
        if usage is None:
            self.counted = False
        else:
            self.usage += usage


def vendor_kinds(connection: Connection, vendor: str) -> set[str]:
    """The kinds of the upstream. CallerError 404 when nothing is offered or was ever used there."""
    offers, usage = tables.offers.c, tables.usage.c
    found = set(connection.execute(select(offers.kind).where(offers.upstream == vendor).distinct()).scalars())
    used = select(usage.request_id).where(usage.upstream == vendor).limit(1)
    if not found and connection.execute(used).first() is None:
        raise CallerError(404, "not_found", f"There is no upstream {vendor!r}. `steelyard models list` names them.")
    return found


def reconcile(
    connection: Connection, vendor: str, bill: Bill, since_ns: int | None = None, until_ns: int | None = None
) -> Reconciliation:
    """Compare. Without bounds the period is the bill's own; a bill without times needs both."""
    since, until = _period(bill, since_ns, until_ns)
    currency = bill.currency or _currency(connection, vendor)
    by_request = any(line.request_id for line in bill.lines)
    ours: dict[Any, Side] = {}
    rows = _rows(connection, vendor, (since, until), {line.request_id for line in bill.lines} - {None})
    names = _model_names(connection, vendor)
    for row in rows:
        if row.payable_currency != currency:
            continue
        usage = heard_from_text(row.heard) or Usage(
            row.input, row.cached_input, row.output, cache_write=row.cache_write, reasoning=row.reasoning
        )
        model = names.get(row.cost_id) or names.get(row.model) or row.model
        side = ours.setdefault(row.request_id if by_request else _place(bill, row.closed_ns, model), Side())
        side.add(_as_billed(usage), row.payable_nano, 1)
        side.estimated |= row.cost_estimated
    theirs: dict[Any, Side] = {}
    for line in bill.lines:
        side = theirs.setdefault(_key(bill, line, by_request), Side())
        side.add(line.usage, line.amount_nano or 0, 1 if line.requests is None else line.requests)
        side.step = max(side.step, line.step_nano)
        if line.amount_nano is None:
            raise bad_request(f"Line {line.place} tells no amount. Name its column with --columns amount=….", "file")
    found, agreed = _compared(ours, theirs, currency, told_requests=any(one.requests is not None for one in bill.lines))
    before = adjusted_before(connection, vendor, currency, since, until)
    return Reconciliation(
        vendor=vendor,
        file=bill.fingerprint,
        currency=currency,
        since_ns=since,
        until_ns=until,
        agreed=agreed,
        ours_nano=sum(side.amount for side in ours.values()),
        theirs_nano=sum(side.amount for side in theirs.values()),
        adjusted_before_nano=before,
        adjust_nano=sum(one.difference_nano for one in found if one.name not in STAYS) - before,
        differences=tuple(found),
    )


def _period(bill: Bill, since_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    timed = [line for line in bill.lines if line.period]
    if not timed and (since_ns is None or until_ns is None):
        raise bad_request("The bill tells no times: say with --since and --until which period it is for.", "since")
    since = min((line.since_ns for line in timed), default=0) if since_ns is None else since_ns
    until = max((line.until_ns for line in timed), default=0) if until_ns is None else until_ns
    if since >= until:
        raise bad_request("--until must be later than --since.", "until")
    return since, until


def _currency(connection: Connection, vendor: str) -> str:
    columns = tables.usage.c
    query = (
        select(columns.payable_currency).where(columns.upstream == vendor, columns.payable_currency != "").distinct()
    )
    found = sorted(connection.execute(query).scalars())
    if len(found) != 1:
        raise bad_request(
            f"The bill tells no currency, and {vendor} is paid in {' and '.join(found) or 'none'}.", "file"
        )
    return str(found[0])


def _rows(
    connection: Connection, vendor: str, within: tuple[int, int], wanted: Iterable[bytes | None]
) -> Iterator[Any]:
    """What we have booked for the period, and requests the bill names that closed outside of it."""
    usage = tables.usage.c
    columns = (
        usage.request_id, usage.closed_ns, usage.model, usage.cost_id, usage.payable_nano, usage.payable_currency,
        usage.cost_estimated, usage.heard, usage.input, usage.cached_input, usage.output, usage.cache_write,
        usage.reasoning,
    )  # fmt: skip
    of_vendor = select(*columns).where(usage.upstream == vendor, usage.payable_currency != "")
    seen: set[bytes | None] = set()
    period = of_vendor.where(usage.closed_ns >= within[0], usage.closed_ns < within[1])
    for row in connection.execute(period, execution_options=_STREAMED):
        seen.add(row.request_id)
        yield row
    for request_id in wanted:
        if request_id not in seen:
            yield from connection.execute(of_vendor.where(usage.request_id == request_id))


def _model_names(connection: Connection, vendor: str) -> dict[int | str, str]:
    """What the vendor calls a model, by the version of its cost tariff and by our own name of it."""
    offers = tables.offers.c
    names: dict[int | str, str] = {}
    query = select(tables.models.c.name, offers.upstream_model).join(
        tables.offers, offers.model_id == tables.models.c.id
    )
    for row in connection.execute(query.where(offers.upstream == vendor)):
        names[row.name] = row.upstream_model
    for tariff in tariffs_by_id(connection).values():
        if tariff.subject == vendor and tariff.model:
            names[tariff.id] = tariff.model
    return names


def _as_billed(usage: Usage) -> Usage:
    """Bills count reasoning as output."""
    return Usage(usage.input, usage.cached_input, usage.generated, cache_write=usage.cache_write)


def _place(bill: Bill, at_ns: int, model: str) -> tuple[str, str]:
    at = datetime.fromtimestamp(at_ns // NS_PER_S, UTC).astimezone(zone_of(bill.zone))
    has_models = any(line.model for line in bill.lines)
    return (model if has_models else ""), bounds(at, bill.hourly)[0]


def _key(bill: Bill, line: BillLine, by_request: bool) -> Any:
    if by_request:
        return line.request_id or f"line {line.place}"
    return line.model, line.period


def _compared(
    ours: Mapping[Any, Side], theirs: Mapping[Any, Side], currency: str, *, told_requests: bool
) -> tuple[list[Difference], int]:
    """The differences in the order of their places, and how many places agree."""
    found: dict[Any, Difference] = {}
    agreed = 0
    for key in sorted(ours.keys() | theirs.keys(), key=_text):
        one, other = ours.get(key), theirs.get(key)
        name = _named(one, other, told_requests)
        if name is None:
            agreed += 1
            continue
        mine, billed = one or Side(), other or Side()
        found[key] = Difference(
            place=_text(key),
            name=name,
            requests=mine.requests,
            tokens=mine.usage.total,
            billed_tokens=billed.usage.total if billed.counted else None,
            ours_nano=mine.amount,
            theirs_nano=billed.amount,
            difference_nano=billed.amount - mine.amount,
            currency=currency,
        )
    return list(_over_the_edge(found, sorted(ours.keys() | theirs.keys(), key=_text))), agreed


def _named(ours: Side | None, theirs: Side | None, told_requests: bool) -> Name | None:
    """What differs; None when nothing does."""
    if ours is None or theirs is None:
        return Name.EXTRA if ours is None else Name.MISSING
    difference = abs(theirs.amount - ours.amount)
    if theirs.counted and theirs.usage != ours.usage:
        mine, billed = ours.usage, theirs.usage
        if mine.generated == billed.generated and mine.prompt in {billed.prompt, billed.input + billed.cache_write}:
            return Name.CACHE
        if ours.estimated:
            return Name.ESTIMATE
        if told_requests and theirs.requests != ours.requests:
            return Name.EXTRA if theirs.requests > ours.requests else Name.MISSING
        return Name.COUNTS
    if not difference:
        return None
    if difference <= theirs.step * (ours.requests if theirs.counted else 1):
        return Name.ROUNDING
    return Name.PRICE if theirs.counted or not ours.estimated else Name.ESTIMATE


def _over_the_edge(found: dict[Any, Difference], places: list[Any]) -> Iterator[Difference]:
    """Two neighbouring days of one model that differ by the same, the one way and the other: a matter of clocks."""
    shifted: set[Any] = set()
    for before, key in pairwise(places):
        if not (isinstance(key, tuple) and isinstance(before, tuple) and before[0] == key[0]):
            continue
        one, other = found.get(before), found.get(key)
        if one is None or other is None or before in shifted or not one.difference_nano:
            continue
        if one.difference_nano == -other.difference_nano:
            shifted |= {before, key}
    for key, one in found.items():
        yield replace(one, name=Name.WINDOW) if key in shifted else one


def _text(key: Any) -> str:
    if isinstance(key, bytes):
        return text_from_id(key)
    return " ".join(filter(None, key)) if isinstance(key, tuple) else str(key)
