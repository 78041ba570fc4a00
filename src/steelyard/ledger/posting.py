"""Posting: rated requests and top-ups become balanced entries, in the caller's transaction.

Owns batches, entries, usage rows, roll-ups, account totals and watermarks. An entry is a (debit, credit, amount) pair,
so it balances by construction (I1); a request id that has a usage row is skipped (I5); each batch carries the hash of
the one before (I11). Rows are never updated. What a charge draws on is decided by ledger.purse. Knows no tariff.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import add, itemgetter
from typing import NamedTuple

from msgspec.structs import astuple
from sqlalchemy import Connection, insert, select

from steelyard.kernel.clock import Clock, day_of, hour_of
from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.settled import End, Position, Rated
from steelyard.kernel.why import bytes_from_way
from steelyard.ledger.accounts import PAIRS, WALLET, BatchKind, Fact, account_name, kind_of
from steelyard.ledger.chain import (
    EARLIER,
    NOTHING_LATER,
    SUMMED,
    EntryRow,
    UsageRow,
    content_of,
    heard_text,
    link,
)
from steelyard.ledger.purse import Purse
from steelyard.ledger.purses import limits_since, live_grants
from steelyard.ledger.salt import salt_for
from steelyard.ledger.standing import Standing, read_standing
from steelyard.storage import tables
from steelyard.storage.bulk import bulk

_USAGE = ("batch_id", *UsageRow._fields)
_EARLIER_USAGE = _USAGE[: 1 + EARLIER]
_ROLLUP = ("grain", "start_ns", "tenant_id", "model", "currency", "requests", *SUMMED, "cost_nano")
_COSTS = ("cpu_cost_nano", "energy_cost_nano", "vendor_cost_nano")
_summed_of = itemgetter(*map(UsageRow._fields.index, (*SUMMED, *_COSTS)))
_CUT = frozenset(end.value for end in End if not (end.whole or end is End.REFUSED))
"""How an answer ended whose vendor may have counted more than we heard. What he refused he does not bill."""
_id_of = itemgetter(UsageRow._fields.index("request_id"))
_row = UsageRow._make
_BATCH = (
    "id", "posted_ns", "kind", "note", "requests", "previous_hash", "hash", "content", "salt",
)  # fmt: skip
_ENTRY = ("batch_id", "fact", "debit_account_id", "credit_account_id", "currency", "amount_nano")


class Pair(NamedTuple):
    """What entries of one batch are added up by."""

    fact: Fact
    debit: str
    credit: str
    currency: str


class Account(NamedTuple):
    """An account with its totals."""

    id: int
    name: str
    currency: str
    debit_nano: int
    credit_nano: int

    @property
    def balance_nano(self) -> int:
        """Credit − debit."""
        return self.credit_nano - self.debit_nano


class Contents(NamedTuple):
    """What a batch is written from."""

    kind: str
    note: str
    pairs: Mapping[Pair, int]
    usage: Sequence[UsageRow] = ()  # in the order of their request ids
    known: Iterable[Account] = ()  # accounts that were read already


def post(connection: Connection, rated: Sequence[Rated], marks: Mapping[str, Position], clock: Clock) -> list[Rated]:
    """Post what is not posted yet and move the journals' watermarks. Returns what was posted now.

    Raises BooksError on an unknown tenant, a negative amount, or an amount the books cannot keep.
    """
    fresh: list[Rated] = []
    if rated:
        standing = read_standing(connection)
        fresh = _not_posted(connection, rated, standing.newest)
        if fresh:
            _post_usage(connection, standing, fresh, clock)
            _keep_ways(connection, fresh)
    if marks:
        rows = [(journal, mark.segment, mark.offset) for journal, mark in marks.items()]
        bulk(connection).put(connection, tables.watermarks, ("journal", "segment", "offset"), rows)
    return fresh


def post_topup(connection: Connection, tenant_id: int, amount_nano: int, note: str, clock: Clock) -> int:
    """Add money to a tenant's wallet. Returns the batch."""
    if amount_nano <= 0:
        raise BooksError("a top-up is more than zero")
    wallet = wallets(connection, {tenant_id})[tenant_id]
    pair = Pair(Fact.TOPUP, account_name(PAIRS[Fact.TOPUP][0]), wallet.name, wallet.currency)
    return write_batch(connection, BatchKind.TOPUP, note, {pair: amount_nano}, clock)


def open_wallet(connection: Connection, tenant_id: int, tenant: str, currency: str) -> None:
    """The account of a new tenant's wallet."""
    kind = PAIRS[Fact.TOPUP][1]
    row = {"name": account_name(kind, tenant), "kind": kind.name, "currency": currency, "tenant_id": tenant_id}
    connection.execute(insert(tables.accounts).values(row | {"debit_nano": 0, "credit_nano": 0}))


def read_watermarks(connection: Connection) -> dict[str, Position]:
    """Journal series → how far it is in the books."""
    columns = tables.watermarks.c
    rows = connection.execute(select(columns.journal, columns.segment, columns.offset))
    return {row[0]: Position(row[1], row[2]) for row in rows}


def posted_ids(connection: Connection, request_ids: Sequence[bytes]) -> set[bytes]:
    """Which of these requests have a usage row."""
    return {row[0] for row in bulk(connection).find(connection, tables.usage, ("request_id",), request_ids)}


def _keep_ways(connection: Connection, rated: Iterable[Rated]) -> None:
    """Why requests with a choice went where they went. In no hash: it is for people."""
    opened = [one.settlement.opened for one in rated]
    rows = [(one.request_id, bytes_from_way(one.why, one.tried)) for one in opened if one.why or one.tried]
    if rows:
        bulk(connection).insert(connection, tables.choices, ("request_id", "way"), rows)


def _not_posted(connection: Connection, rated: Sequence[Rated], newest: bytes | None) -> list[Rated]:
    by_id = {one.settlement.opened.request_id: one for one in reversed(rated)}  # of two with one id the first counts
    known = [request_id for request_id in by_id if request_id <= newest] if newest else []  # ids grow with time
    done = posted_ids(connection, known)
    return [by_id[request_id] for request_id in reversed(by_id) if request_id not in done]


def _post_usage(connection: Connection, standing: Standing, rated: Sequence[Rated], clock: Clock) -> None:
    found = wallets(connection, {one.settlement.opened.tenant_id for one in rated})
    purses, plain = _purses(connection, standing, rated, found)
    closed_until_ns = standing.closed_until_ns
    sums: dict[tuple[int, str, str, str], list[int]] = defaultdict(lambda: [0] * 4)
    pairs: dict[Pair, int] = defaultdict(int)
    # Sorted, because reports.shares tells from the rows what each request drew.
    usage = sorted([_usage_row(one, closed_until_ns) for one in rated], key=_id_of)
    for row in usage:
        # Never more than was set aside, never beyond the purse: what is above is our overrun, not the customer's.
        tenant_id, charge = row.tenant_id, row.charge_nano
        from_wallet = from_all = min(charge, row.hold_nano)
        if tenant_id not in plain:
            drawn = purses[tenant_id].draw(from_all)
            purses[tenant_id] = drawn.purse
            from_wallet, from_all = drawn.wallet_nano, drawn.total_nano
            for account, amount in drawn.granted:
                pairs[Pair(Fact.GRANT_SPENT, account, "revenue:" + row.model, row.currency)] += amount
        sum_of = sums[tenant_id, row.model, row.upstream, row.currency]
        sum_of[0] += from_wallet
        sum_of[1] += charge - from_all
        sum_of[2] += row.cpu_cost_nano
        sum_of[3] += row.energy_cost_nano
        if row.payable_currency:
            _owe_vendor(pairs, row)
    for (tenant_id, model, upstream, currency), (taken, overrun, cpu, energy) in sums.items():
        wallet, revenue = found[tenant_id], "revenue:" + model
        if currency != wallet.currency:
            raise BooksError(f"requests of {wallet.name} are in {currency}, it is in {wallet.currency}")
        pairs[Pair(Fact.CHARGE, wallet.name, revenue, currency)] += taken
        pairs[Pair(Fact.OVERRUN, "overrun:" + wallet.name.partition(":")[2], revenue, currency)] += overrun
        pairs[Pair(Fact.CPU, "expense-cpu:" + upstream, "clearing-amortisation", currency)] += cpu
        pairs[Pair(Fact.ENERGY, "expense-energy:" + upstream, "clearing-energy", currency)] += energy
    _write(connection, standing, Contents(BatchKind.USAGE, "", pairs, usage, tuple(found.values())), clock)


def _owe_vendor(pairs: dict[Pair, int], row: UsageRow) -> None:
    """What its vendor will bill; in another currency by way of `fx`, so that each currency balances by itself."""
    expense, payable, currency = "expense-vendor:" + row.upstream, "payable:" + row.upstream, row.payable_currency
    if currency == row.currency:
        pairs[Pair(Fact.VENDOR, expense, payable, currency)] += row.payable_nano
    else:
        pairs[Pair(Fact.VENDOR_FX, expense, "fx", row.currency)] += row.vendor_cost_nano
        pairs[Pair(Fact.PAYABLE_FX, "fx", payable, currency)] += row.payable_nano


def _purses(
    connection: Connection, standing: Standing, rated: Iterable[Rated], found: Mapping[int, Account]
) -> tuple[dict[int, Purse], set[int]]:
    """What these requests may draw on, and whose wallet alone covers all of them.

    The limit of a purse is the greatest that was in force since the first of its requests opened.
    """
    since: dict[int, int] = {}
    wanted: dict[int, int] = defaultdict(int)
    for one in rated:
        opened = one.settlement.opened
        tenant_id, opened_ns = opened.tenant_id, opened.opened_ns
        wanted[tenant_id] += min(one.charge_nano, opened.hold_nano)
        if opened_ns < since.get(tenant_id, INT64_MAX):
            since[tenant_id] = opened_ns
    limits = limits_since(connection, since) if standing.has_limits else {}
    grants = live_grants(connection, since) if standing.has_grants else {}
    purses = {one: Purse(found[one].balance_nano, limits.get(one, 0), grants.get(one, ())) for one in wanted}
    return purses, {one for one, nano in wanted.items() if purses[one].covers(nano)}


def _usage_row(rated: Rated, closed_until_ns: int) -> UsageRow:
    """What comes late for a closed period counts in the open one. By position: by name it takes twice as long."""
    settlement, charge, cpu_cost, energy_cost, vendor_cost, payable, payable_currency = astuple(rated)
    closed, rate_id, heard, cost_estimated = settlement.closed, 0, "", False
    if payable_currency:
        rate_id, heard = settlement.opened.rate_id, heard_text(closed.heard)
        cost_estimated = closed.estimated or closed.end in _CUT
    fresh, cached, output, cpu_ns, energy_uj, cache_write, reasoning, *reused = astuple(closed.usage)
    (
        request_id, opened_ns, _slot, tenant_id, project_id, key_id, model, upstream, price_id, cost_id, currency,
        hold, max_tokens, sequences, stream, _lease, _rate_id, _why, _tried, price_when, cost_when, thinking, *_,
    ) = astuple(settlement.opened)  # fmt: skip
    if charge < 0 or cpu_cost < 0 or energy_cost < 0 or vendor_cost < 0 or hold < 0:
        raise BooksError(f"{request_id.hex()} has a negative amount")
    closed_ns = closed.closed_ns
    return _row((
        request_id, opened_ns, closed_ns if closed_ns > closed_until_ns else closed_until_ns,
        tenant_id, project_id, key_id, model, upstream, price_id, cost_id, currency, sequences, stream, max_tokens,
        fresh, cached, output, cpu_ns, energy_uj, hold, charge, cpu_cost, energy_cost,
        str(closed.end), closed.first_token_ns, closed.duration_ns, closed.short_by_one_read,
        cache_write, reasoning, closed.estimated,
        vendor_cost, payable, payable_currency, rate_id, cost_estimated, heard,
        price_when, cost_when, thinking, *reused, closed.measured_uj,
    ))  # fmt: skip


def write_batch(connection: Connection, kind: str, note: str, pairs: Mapping[Pair, int], clock: Clock) -> int:
    """One batch of money that moved without a request. Returns its id."""
    return _write(connection, read_standing(connection), Contents(kind, note, pairs), clock)


def _write(connection: Connection, standing: Standing, contents: Contents, clock: Clock) -> int:
    """One batch: header with its hash, entries, usage rows, roll-ups and the accounts' totals."""
    kind, note, pairs, usage, known = contents
    wanted = [(pair, amount) for pair, amount in pairs.items() if amount]
    accounts = _accounts(connection, [pair for pair, _ in wanted], known)
    batch_id, previous = standing.batch_id + 1, standing.hash
    posted_ns = max(clock.now_ns(), standing.posted_ns, standing.closed_until_ns)  # the clock may have stepped back
    entries = [EntryRow(pair.fact.value, pair.debit, pair.credit, pair.currency, amount) for pair, amount in wanted]
    salt = salt_for(standing.secret, batch_id, previous)
    header = (batch_id, posted_ns, kind, note, len(usage))
    content = content_of(header, entries, usage, salt)
    chained = (previous, link(previous, content), content, salt)
    bulk(connection).insert(connection, tables.batches, _BATCH, [(*header, *chained)])
    if entries:
        rows = [
            (batch_id, one.fact, accounts[one.debit, one.currency].id, accounts[one.credit, one.currency].id,
             one.currency, one.amount_nano)
            for one in entries
        ]  # fmt: skip
        bulk(connection).insert(connection, tables.entries, _ENTRY, rows)
        _add_totals(connection, entries, accounts)
    if usage:
        _insert_usage(connection, batch_id, usage)
        bulk(connection).add(connection, tables.rollups, _ROLLUP, _rollup_rows(usage))
    return batch_id


def _insert_usage(connection: Connection, batch_id: int, usage: Iterable[UsageRow]) -> None:
    """A third of the columns say nothing in most rows: their defaults need not be sent (4 of 16 µs a row in SQLite)."""
    short: list[tuple[object, ...]] = []
    whole: list[tuple[object, ...]] = []
    for row in usage:
        if row[EARLIER:] == NOTHING_LATER:
            short.append((batch_id, *row[:EARLIER]))
        else:
            whole.append((batch_id, *row))
    for columns, rows in ((_EARLIER_USAGE, short), (_USAGE, whole)):
        if rows:
            bulk(connection).insert(connection, tables.usage, columns, rows)


def _add_totals(
    connection: Connection, entries: Iterable[EntryRow], accounts: Mapping[tuple[str, str], Account]
) -> None:
    debits: dict[int, int] = defaultdict(int)
    credits: dict[int, int] = defaultdict(int)
    for entry in entries:
        debits[accounts[entry.debit, entry.currency].id] += entry.amount_nano
        credits[accounts[entry.credit, entry.currency].id] += entry.amount_nano
    if sum(debits.values()) != sum(credits.values()):
        raise BooksError("I1: the batch does not balance")
    for account in accounts.values():
        if max(account.debit_nano + debits[account.id], account.credit_nano + credits[account.id]) > INT64_MAX:
            raise BooksError(f"the account {account.name} is full")
    totals = [(account.id, debits[account.id], credits[account.id]) for account in accounts.values()]
    bulk(connection).increase(connection, tables.accounts, ("id", "debit_nano", "credit_nano"), totals)


def _rollup_rows(usage: Iterable[UsageRow]) -> list[tuple[object, ...]]:
    """What this batch adds to the roll-ups, by hour and day of the close."""
    hours: dict[tuple[int, int, str, str], list[UsageRow]] = defaultdict(list)
    for row in usage:
        hours[hour_of(row.closed_ns), row.tenant_id, row.model, row.currency].append(row)
    days: dict[tuple[int, int, str, str], list[int]] = defaultdict(lambda: [0] * (len(SUMMED) + 2))
    added: list[tuple[object, ...]] = []
    for key, rows in hours.items():
        columns = zip(*map(_summed_of, rows), strict=True)
        *sums, cpu_cost, energy_cost, vendor_cost = (len(rows), *map(sum, columns))
        sums.append(cpu_cost + energy_cost + vendor_cost)
        added.append(("hour", *key, *sums))
        day = days[day_of(key[0]), *key[1:]]
        day[:] = map(add, day, sums)
    return [*added, *(("day", *key, *sums) for key, sums in days.items())]


def wallets(connection: Connection, tenant_ids: set[int]) -> dict[int, Account]:
    """The wallet of each of these tenants. Raises BooksError when one has none."""
    columns = ("tenant_id", *Account._fields)
    rows = bulk(connection).find(connection, tables.accounts, columns, sorted(tenant_ids), also=("kind", WALLET.name))
    found = {tenant_id: Account._make(rest) for tenant_id, *rest in rows}
    missing = tenant_ids - found.keys()
    if missing:
        raise BooksError(f"no wallet for the tenants {sorted(missing)}")
    return found


def _accounts(
    connection: Connection, pairs: Sequence[Pair], known: Iterable[Account]
) -> dict[tuple[str, str], Account]:
    """The accounts of these pairs by (name, currency); those of the chart that are missing are opened."""
    wanted = {(name, pair.currency) for pair in pairs for name in (pair.debit, pair.credit)}
    found = {(one.name, one.currency): one for one in known}
    found = {place: found[place] for place in wanted & found.keys()}
    found |= _find_accounts(connection, wanted - found.keys())
    missing = sorted(wanted - found.keys())
    if missing:
        connection.execute(insert(tables.accounts), [_new_account(name, currency) for name, currency in missing])
        found |= _find_accounts(connection, set(missing))
    return found


def _find_accounts(connection: Connection, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Account]:
    names = sorted({name for name, _ in wanted})
    rows = bulk(connection).find(connection, tables.accounts, ("name", *Account._fields), names)
    found = (Account._make(rest) for _, *rest in rows)
    return {(one.name, one.currency): one for one in found if (one.name, one.currency) in wanted}


def _new_account(name: str, currency: str) -> dict[str, object]:
    kind = kind_of(name)
    account_name(kind, name.partition(":")[2])
    return {"name": name, "kind": kind.name, "currency": currency, "tenant_id": None, "debit_nano": 0, "credit_nano": 0}
