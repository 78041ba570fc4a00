"""Posting: rated requests and top-ups become balanced entries, in the caller's transaction.

Owns batches, entries, usage rows, roll-ups, account totals and watermarks. An entry is a (debit, credit, amount) pair,
so it balances by construction (I1); a request id that has a usage row is skipped (I5); each batch carries the hash of
the one before (I11). Rows are never updated. What a charge draws on is decided by ledger.purse. Knows no tariff.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.settled import Position, Rated
from steelyard.kernel.why import bytes_from_way
from steelyard.ledger.accounts import PAIRS, WALLET, BatchKind, Fact, account_name, kind_of
from steelyard.ledger.chain import EARLIER, NOTHING_LATER, SUMMED, EntryRow, UsageRow, content_of, link
from steelyard.ledger.lots import Lot, lots_of, rollups_of
from steelyard.ledger.purse import Purse
from steelyard.ledger.purses import limits_since, live_grants
from steelyard.ledger.salt import salt_for
from steelyard.ledger.standing import Standing, read_standing
from steelyard.storage import tables
from steelyard.storage.bulk import bulk

_USAGE = ("batch_id", *UsageRow._fields)
_EARLIER_USAGE = _USAGE[: 1 + EARLIER]
_ROLLUP = ("grain", "start_ns", "tenant_id", "model", "currency", "requests", *SUMMED, "cost_nano")
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
    lots: Sequence[Lot] = ()  # the same, added up
    known: Iterable[Account] = ()  # accounts that were read already


def post(connection: Connection, rated: Sequence[Rated], marks: Mapping[str, Position], clock: Clock) -> list[Rated]:
    """Post what is not posted yet and move the journals' watermarks. Returns what was posted now, by request id.

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
    return [by_id[request_id] for request_id in sorted(by_id) if request_id not in done]


def _post_usage(connection: Connection, standing: Standing, rated: Sequence[Rated], clock: Clock) -> None:
    usage, lots = lots_of(rated, standing.closed_until_ns)
    found = wallets(connection, {lot.alike.tenant_id for lot in lots})
    purses, plain = _purses(connection, standing, (usage, lots), found)
    pairs: dict[Pair, int] = defaultdict(int)
    for lot in lots:
        wallet, (_, tenant_id, model, upstream, currency, _) = found[lot.alike.tenant_id], lot.alike
        if currency != wallet.currency:
            raise BooksError(f"requests of {wallet.name} are in {currency}, it is in {wallet.currency}")
        if tenant_id in plain:
            _charge(pairs, wallet, model, lot.due_nano, lot.charge_nano - lot.due_nano)
        pairs[Pair(Fact.CPU, "expense-cpu:" + upstream, "clearing-amortisation", currency)] += lot.cpu_cost_nano
        pairs[Pair(Fact.ENERGY, "expense-energy:" + upstream, "clearing-energy", currency)] += lot.energy_cost_nano
        if lot.alike.payable_currency:
            _owe_vendor(pairs, lot)
    if len(plain) < len(purses):
        for row in usage:  # in the order of their ids, because reports.shares tells from the rows what each one drew
            if row.tenant_id not in plain:
                drawn = purses[row.tenant_id].draw(min(row.charge_nano, row.hold_nano))
                purses[row.tenant_id] = drawn.purse
                for account, amount in drawn.granted:
                    pairs[Pair(Fact.GRANT_SPENT, account, "revenue:" + row.model, row.currency)] += amount
                _charge(pairs, found[row.tenant_id], row.model, drawn.wallet_nano, row.charge_nano - drawn.total_nano)
    _write(connection, standing, Contents(BatchKind.USAGE, "", pairs, usage, lots, tuple(found.values())), clock)


def _charge(pairs: dict[Pair, int], wallet: Account, model: str, taken_nano: int, overrun_nano: int) -> None:
    """Never more than was set aside, never beyond the purse: what is above is our overrun, not the customer's."""
    revenue, currency = "revenue:" + model, wallet.currency
    pairs[Pair(Fact.CHARGE, wallet.name, revenue, currency)] += taken_nano
    pairs[Pair(Fact.OVERRUN, "overrun:" + wallet.name.partition(":")[2], revenue, currency)] += overrun_nano


def _owe_vendor(pairs: dict[Pair, int], lot: Lot) -> None:
    """What its vendor will bill; in another currency by way of `fx`, so that each currency balances by itself."""
    upstream, currency = lot.alike.upstream, lot.alike.payable_currency
    expense, payable = "expense-vendor:" + upstream, "payable:" + upstream
    if currency == lot.alike.currency:
        pairs[Pair(Fact.VENDOR, expense, payable, currency)] += lot.payable_nano
    else:
        pairs[Pair(Fact.VENDOR_FX, expense, "fx", lot.alike.currency)] += lot.vendor_cost_nano
        pairs[Pair(Fact.PAYABLE_FX, "fx", payable, currency)] += lot.payable_nano


def _purses(
    connection: Connection,
    standing: Standing,
    wanted: tuple[Sequence[UsageRow], Sequence[Lot]],
    found: Mapping[int, Account],
) -> tuple[dict[int, Purse], set[int]]:
    """What these requests may draw on, and whose wallet alone covers all of them.

    The limit of a purse is the greatest that was in force since the first of its requests opened.
    """
    usage, lots = wanted
    due: dict[int, int] = defaultdict(int)
    for lot in lots:
        due[lot.alike.tenant_id] += lot.due_nano
    limits: dict[int, int] = {}
    if standing.has_limits:
        since: dict[int, int] = {}
        for row in usage:
            since[row.tenant_id] = min(row.opened_ns, since.get(row.tenant_id, INT64_MAX))
        limits = limits_since(connection, since)
    grants = live_grants(connection, due) if standing.has_grants else {}
    purses = {one: Purse(found[one].balance_nano, limits.get(one, 0), grants.get(one, ())) for one in due}
    return purses, {one for one, nano in due.items() if purses[one].covers(nano)}


def write_batch(connection: Connection, kind: str, note: str, pairs: Mapping[Pair, int], clock: Clock) -> int:
    """One batch of money that moved without a request. Returns its id."""
    return _write(connection, read_standing(connection), Contents(kind, note, pairs), clock)


def _write(connection: Connection, standing: Standing, contents: Contents, clock: Clock) -> int:
    """One batch: header with its hash, entries, usage rows, roll-ups and the accounts' totals."""
    kind, note, pairs, usage, lots, known = contents
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
        bulk(connection).add(connection, tables.rollups, _ROLLUP, rollups_of(lots))
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
