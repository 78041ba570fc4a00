"""Posting: rated requests and top-ups become balanced entries, in the caller's transaction.

Owns batches, entries, usage rows, roll-ups, account totals and watermarks. An entry is a (debit, credit, amount) pair,
so it balances by construction (I1); a request id that has a usage row is skipped (I5); each batch carries the hash of
the one before (I11). Rows are never updated. What a charge draws on is decided by ledger.purse. Knows no tariff.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select

from steelyard.kernel.clock import Clock, day_of, hour_of
from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Meter
from steelyard.kernel.records import Position, Rated
from steelyard.ledger.accounts import PAIRS, WALLET, BatchKind, Fact, account_name, kind_of
from steelyard.ledger.chain import GENESIS, EntryRow, UsageRow, content_of, link
from steelyard.ledger.purse import Purse
from steelyard.ledger.purses import limits_since, live_grants
from steelyard.ledger.salt import salt_for
from steelyard.storage import tables
from steelyard.storage.bulk import bulk

_USAGE = ("batch_id", *UsageRow._fields)
_ROLLUP = (
    "grain", "start_ns", "tenant_id", "model", "currency",
    "requests", "input", "cached_input", "output", "cpu_ns", "energy_uj", "charge_nano", "cost_nano",
)  # fmt: skip
_ENTRY = ("batch_id", "fact", "debit_account_id", "credit_account_id", "currency", "amount_nano")
_IDS_PER_QUERY = 500


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


def post(connection: Connection, rated: Sequence[Rated], marks: Mapping[str, Position], clock: Clock) -> list[Rated]:
    """Post what is not posted yet and move the journals' watermarks. Returns what was posted now.

    Raises BooksError on an unknown tenant, a negative amount, or an amount the books cannot keep.
    """
    fresh = _not_posted(connection, rated)
    if fresh:
        _post_usage(connection, fresh, clock)
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
    return write_batch(connection, BatchKind.TOPUP, note, {pair: amount_nano}, [], clock)


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
    found: set[bytes] = set()
    column = tables.usage.c.request_id
    for start in range(0, len(request_ids), _IDS_PER_QUERY):
        some = request_ids[start : start + _IDS_PER_QUERY]
        found.update(connection.execute(select(column).where(column.in_(some))).scalars())
    return found


def _not_posted(connection: Connection, rated: Sequence[Rated]) -> list[Rated]:
    by_id = {one.settlement.opened.request_id: one for one in reversed(rated)}  # of two with one id the first counts
    done = posted_ids(connection, list(by_id)) if by_id else set()
    return [by_id[request_id] for request_id in reversed(by_id) if request_id not in done]


def _post_usage(connection: Connection, rated: Sequence[Rated], clock: Clock) -> None:
    found = wallets(connection, {one.settlement.opened.tenant_id for one in rated})
    purses = _purses(connection, rated, found)
    closed_until_ns = closed_until(connection)
    sums: dict[tuple[int, str, str, str], list[int]] = defaultdict(lambda: [0] * 4)
    pairs: dict[Pair, int] = defaultdict(int)
    usage: list[UsageRow] = []
    for one in rated:
        opened = one.settlement.opened
        tenant_id = opened.tenant_id
        row = _usage_row(one, closed_until_ns)
        usage.append(row)
        if found[tenant_id].currency != opened.currency:
            raise BooksError(f"{opened.request_id.hex()} is in {opened.currency}, its wallet is not")
        # Never more than was set aside, never beyond the purse: what is above is our overrun, not the customer's.
        drawn = purses[tenant_id].draw(min(row.charge_nano, row.hold_nano))
        purses[tenant_id] = drawn.purse
        for account, amount in drawn.granted:
            pairs[Pair(Fact.GRANT_SPENT, account, "revenue:" + opened.model, opened.currency)] += amount
        sum_of = sums[tenant_id, opened.model, opened.upstream, opened.currency]
        sum_of[0] += drawn.wallet_nano
        sum_of[1] += row.charge_nano - drawn.total_nano
        sum_of[2] += row.cpu_cost_nano
        sum_of[3] += row.energy_cost_nano
    for (tenant_id, model, upstream, currency), (taken, overrun, cpu, energy) in sums.items():
        wallet, revenue = found[tenant_id].name, "revenue:" + model
        pairs[Pair(Fact.CHARGE, wallet, revenue, currency)] += taken
        pairs[Pair(Fact.OVERRUN, "overrun:" + wallet.partition(":")[2], revenue, currency)] += overrun
        pairs[Pair(Fact.CPU, "expense-cpu:" + upstream, "clearing-amortisation", currency)] += cpu
        pairs[Pair(Fact.ENERGY, "expense-energy:" + upstream, "clearing-energy", currency)] += energy
    write_batch(connection, BatchKind.USAGE, "", pairs, usage, clock)


def _purses(connection: Connection, rated: Iterable[Rated], found: Mapping[int, Account]) -> dict[int, Purse]:
    """What these requests may draw on: their limit is the greatest that was in force since the first of them opened."""
    since: dict[int, int] = {}
    for one in rated:
        opened = one.settlement.opened
        since[opened.tenant_id] = min(opened.opened_ns, since.get(opened.tenant_id, opened.opened_ns))
    limits, grants = limits_since(connection, since), live_grants(connection, since)
    return {one: Purse(found[one].balance_nano, limits.get(one, 0), grants.get(one, ())) for one in since}


def closed_until(connection: Connection) -> int:
    """Until when the books are closed: nothing is posted before. 0 when no period was closed."""
    return int(connection.execute(select(func.coalesce(func.max(tables.periods.c.until_ns), 0))).scalar_one())


def _usage_row(rated: Rated, closed_until_ns: int) -> UsageRow:
    """What comes late for a closed period counts in the open one."""
    opened, closed = rated.settlement.opened, rated.settlement.closed
    used = closed.usage
    cpu_cost = energy_cost = 0
    for line in rated.cost:
        if line.meter is Meter.CPU:
            cpu_cost += line.amount_nano
        elif line.meter is Meter.ENERGY:
            energy_cost += line.amount_nano
        elif line.amount_nano:
            raise BooksError(f"no account takes the cost of {line.meter}")
    row = UsageRow(
        request_id=opened.request_id,
        opened_ns=opened.opened_ns,
        closed_ns=max(closed.closed_ns, closed_until_ns),
        tenant_id=opened.tenant_id,
        project_id=opened.project_id,
        key_id=opened.key_id,
        model=opened.model,
        upstream=opened.upstream,
        price_id=opened.price_id,
        cost_id=opened.cost_id,
        currency=opened.currency,
        sequences=opened.sequences,
        stream=opened.stream,
        max_tokens=opened.max_tokens,
        input=used.input,
        cached_input=used.cached_input,
        output=used.output,
        cpu_ns=used.cpu_ns,
        energy_uj=used.energy_uj,
        hold_nano=opened.hold_nano,
        charge_nano=rated.charge_nano,
        cpu_cost_nano=cpu_cost,
        energy_cost_nano=energy_cost,
        end=str(closed.end),
        first_token_ns=closed.first_token_ns,
        duration_ns=closed.duration_ns,
        short_by_one_read=closed.short_by_one_read,
    )
    if min(row.charge_nano, cpu_cost, energy_cost, row.hold_nano) < 0:
        raise BooksError(f"{opened.request_id.hex()} has a negative amount")
    return row


def write_batch(
    connection: Connection, kind: str, note: str, pairs: Mapping[Pair, int], usage: Sequence[UsageRow], clock: Clock
) -> int:
    """One batch: header with its hash, entries, usage rows, roll-ups and the accounts' totals."""
    wanted = [(pair, amount) for pair, amount in pairs.items() if amount]
    accounts = _accounts(connection, [pair for pair, _ in wanted])
    batches = tables.batches.c
    query = select(batches.id, batches.hash, batches.posted_ns).order_by(batches.id.desc())
    last = connection.execute(query.limit(1)).one_or_none()
    batch_id, previous, not_before_ns = (last.id + 1, last.hash, last.posted_ns) if last else (1, GENESIS, 0)
    posted_ns = max(clock.now_ns(), not_before_ns, closed_until(connection))  # the clock may have stepped back
    entries = [EntryRow(pair.fact.value, pair.debit, pair.credit, pair.currency, amount) for pair, amount in wanted]
    ordered = sorted(usage, key=lambda row: row.request_id)
    salt = salt_for(connection, batch_id, previous)
    content = content_of((batch_id, posted_ns, kind, note, len(usage)), entries, ordered, salt)
    header = {"id": batch_id, "posted_ns": posted_ns, "kind": kind, "note": note, "requests": len(usage)}
    chained = {"previous_hash": previous, "hash": link(previous, content), "content": content, "salt": salt}
    connection.execute(insert(tables.batches).values(header | chained))
    if entries:
        rows = [
            (batch_id, one.fact, accounts[one.debit, one.currency].id, accounts[one.credit, one.currency].id,
             one.currency, one.amount_nano)
            for one in entries
        ]  # fmt: skip
        bulk(connection).insert(connection, tables.entries, _ENTRY, rows)
        _add_totals(connection, entries, accounts)
    if ordered:
        bulk(connection).insert(connection, tables.usage, _USAGE, [(batch_id, *row) for row in ordered])
        bulk(connection).add(connection, tables.rollups, _ROLLUP, _rollup_rows(ordered))
    return int(batch_id)


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
    added: dict[tuple[str, int, int, str, str], list[int]] = defaultdict(lambda: [0] * 8)
    for row in usage:
        amounts = (
            1, row.input, row.cached_input, row.output, row.cpu_ns, row.energy_uj,
            row.charge_nano, row.cpu_cost_nano + row.energy_cost_nano,
        )  # fmt: skip
        for grain, start_ns in (("hour", hour_of(row.closed_ns)), ("day", day_of(row.closed_ns))):
            sums = added[grain, start_ns, row.tenant_id, row.model, row.currency]
            for index, amount in enumerate(amounts):
                sums[index] += amount
    return [(*key, *sums) for key, sums in added.items()]


def wallets(connection: Connection, tenant_ids: set[int]) -> dict[int, Account]:
    """The wallet of each of these tenants. Raises BooksError when one has none."""
    columns = tables.accounts.c
    query = select(
        columns.tenant_id, columns.id, columns.name, columns.currency, columns.debit_nano, columns.credit_nano
    ).where(columns.kind == WALLET.name, columns.tenant_id.in_(tenant_ids))
    found = {row[0]: Account(*row[1:]) for row in connection.execute(query)}
    missing = tenant_ids - found.keys()
    if missing:
        raise BooksError(f"no wallet for the tenants {sorted(missing)}")
    return found


def _accounts(connection: Connection, pairs: Sequence[Pair]) -> dict[tuple[str, str], Account]:
    """The accounts of these pairs by (name, currency); those of the chart that are missing are opened."""
    wanted = {(name, pair.currency) for pair in pairs for name in (pair.debit, pair.credit)}
    found = _find_accounts(connection, wanted)
    missing = sorted(wanted - found.keys())
    if missing:
        connection.execute(insert(tables.accounts), [_new_account(name, currency) for name, currency in missing])
        found |= _find_accounts(connection, set(missing))
    return found


def _find_accounts(connection: Connection, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Account]:
    found: dict[tuple[str, str], Account] = {}
    columns = tables.accounts.c
    names = sorted({name for name, _ in wanted})
    query = select(columns.id, columns.name, columns.currency, columns.debit_nano, columns.credit_nano)
    for start in range(0, len(names), _IDS_PER_QUERY):
        for row in connection.execute(query.where(columns.name.in_(names[start : start + _IDS_PER_QUERY]))):
            if (row.name, row.currency) in wanted:
                found[row.name, row.currency] = Account(*row)
    return found


def _new_account(name: str, currency: str) -> dict[str, object]:
    kind = kind_of(name)
    account_name(kind, name.partition(":")[2])
    return {"name": name, "kind": kind.name, "currency": currency, "tenant_id": None, "debit_nano": 0, "credit_nano": 0}
