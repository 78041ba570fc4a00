"""Rebuilds what the books say from their own rows and tells where they differ: I1 to I5, I7, I9, I11 and I13.

Reads only, one batch at a time, so memory stays bounded by a batch and the number of accounts. Knows no tariff rule:
how to rate is passed in, so that re-rating (I9) uses the very function that rated at first.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, select, text

from steelyard.kernel.clock import NS_PER_HOUR
from steelyard.kernel.errors import BooksError
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, Opened, Rated, Settlement
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.accounts import FACTS, GRANT, PAIRS, WALLET, BatchKind, Fact
from steelyard.ledger.chain import GENESIS, EntryRow, UsageRow, content_of, hash_unsealed, heard_from_text, link
from steelyard.ledger.credit import LimitHistory, limit_histories
from steelyard.ledger.operation_check import operation_complaints
from steelyard.ledger.periods import Balance, balances_hash, closed_periods
from steelyard.storage import tables

T = TypeVar("T")
Rate = Callable[[Settlement, Tariff, Tariff, Tariff | None], Rated]

TITLES = {
    "I1": "Debits equal credits, per currency, per batch and in total",
    "I2": "Usage equals the entries posted for it, per account and batch",
    "I3": "Roll-ups equal usage",
    "I4": "Available + held + captured − paid out = topped up + granted; no purse is overdrawn; held = open holds",
    "I5": "Each request has one usage row and took at most its hold; the rest is overrun",
    "I7": "Leases and what is free make the wallet, their shares what limits lent; each lease has one living holder",
    "I9": "Re-rating a usage row with its tariffs gives the same amounts",
    "I11": "The chain of batch hashes is unbroken",
    "I13": "A closed period has the balances it was closed with, and nothing was posted into it since",
}
"""The invariants that are checked, in the words of docs/explain/ledger.md."""

_PAIRS = {fact.value: kinds for fact, kinds in PAIRS.items()}
_KINDS = frozenset(BatchKind)
_SHOWN_MAX = 5
_STREAMED = {"yield_per": 1000}


class Finding(Record, frozen=True):
    """One invariant and whether it holds; `detail` is empty or says where it does not."""

    invariant: str
    title: str
    ok: bool
    detail: str


class _Entry(NamedTuple):
    row: EntryRow
    debit_id: int
    credit_id: int
    debit_currency: str
    credit_currency: str


def verify(
    connection: Connection, rate: Rate, tariffs: Mapping[int, Tariff], live: Sequence[str] = ()
) -> list[Finding]:
    """Check every invariant over all rows. `live`: the teller's and the leases' own complaints (I4, I7)."""
    audit = _Audit(connection, rate, tariffs)
    for complaint in live:
        audit.complain("I7" if complaint.startswith("I7") else "I4", complaint)
    audit.check_batches()
    audit.check_totals()
    audit.check_rollups()
    for complaint in operation_complaints(connection):
        audit.complain("I4", complaint)
    return audit.findings()


class _Audit:
    """One run. Complaints beyond the first few of an invariant are only counted."""

    def __init__(self, connection: Connection, rate: Rate, tariffs: Mapping[int, Tariff]) -> None:
        self._connection = connection
        self._rate = rate
        self._tariffs = tariffs
        self._complaints: dict[str, list[str]] = {invariant: [] for invariant in TITLES}
        self._counts: Counter[str] = Counter()
        self._accounts = {row.id: row for row in connection.execute(select(tables.accounts))}
        self._wallets = {row.tenant_id: row.name for row in self._accounts.values() if row.kind == WALLET.name}
        self._purses = {  # wallets and grants → the wallet of the same tenant
            row.name: self._wallets.get(row.tenant_id, "")
            for row in self._accounts.values()
            if row.kind in (WALLET.name, GRANT.name)
        }
        self._limits = limit_histories(connection)
        self._periods = closed_periods(connection)
        self._closed_until_ns = 0
        self._debits: Counter[int] = Counter()
        self._credits: Counter[int] = Counter()
        self._charged: Counter[str] = Counter()  # wallet → Σ usage.charge
        self._borne: Counter[str] = Counter()  # wallet → Σ overrun of its charges
        self._moved: Counter[str] = Counter()  # wallet → what else went into its purse, less what went out

    def complain(self, invariant: str, what: str) -> None:
        self._counts[invariant] += 1
        if len(self._complaints[invariant]) < _SHOWN_MAX:
            self._complaints[invariant].append(what)

    def findings(self) -> list[Finding]:
        found = []
        for invariant, title in TITLES.items():
            shown = "; ".join(self._complaints[invariant])
            more = self._counts[invariant] - len(self._complaints[invariant])
            detail = f"{shown}; and {more} more" if more else shown
            found.append(Finding(invariant, title, not shown, detail))
        return found

    def check_batches(self) -> None:
        """Everything that can be told from one batch and the one before it."""
        entries, usage = _Shelf(self._entries()), _Shelf(self._usage())
        previous, expected_id = GENESIS, 1
        for batch in self._connection.execute(
            select(tables.batches).order_by(tables.batches.c.id), execution_options=_STREAMED
        ):
            self._check_periods(batch.id)
            if batch.posted_ns < self._closed_until_ns:
                self.complain("I13", f"batch {batch.id} is dated in a closed period")
            booked, used = entries.take(batch.id), usage.take(batch.id)
            self._check_entries(batch.id, batch.kind, booked)
            if batch.kind == BatchKind.USAGE or used:
                self._check_usage(batch.id, booked, used)
            self._check_purses(batch.id, booked, used)
            for row in used:
                self._rerate(row)
            header = (batch.id, batch.posted_ns, batch.kind, batch.note, batch.requests)
            written = [one.row for one in booked]
            if batch.salt is None:
                digest = hash_unsealed(batch.previous_hash, header, written, used)
            else:
                content = content_of(header, written, used, batch.salt)
                digest = link(batch.previous_hash, content) if content == batch.content else b""
            if batch.requests != len(used):
                self.complain("I5", f"batch {batch.id} counts {batch.requests} requests and has {len(used)} usage rows")
            if batch.id != expected_id or batch.previous_hash != previous:
                self.complain("I11", f"batch {batch.id} does not follow the one before")
            if batch.hash != digest:
                self.complain("I11", f"batch {batch.id} is not what was hashed")
            previous, expected_id = batch.hash, batch.id + 1
        self._check_periods(expected_id)
        strays = entries.count_rest() + usage.count_rest()
        if strays:
            self.complain("I11", f"{strays} rows belong to no batch")

    def check_totals(self) -> None:
        """Accounts against the sums of all entries, wallets against usage."""
        total: Counter[str] = Counter()
        for account in self._accounts.values():
            total[account.currency] += account.debit_nano - account.credit_nano
            if (account.debit_nano, account.credit_nano) != (self._debits[account.id], self._credits[account.id]):
                self.complain("I1", f"the totals of {account.name} are not the sums of its entries")
        for currency, difference in total.items():
            if difference:
                self.complain("I1", f"debits and credits differ by {difference} nano {currency} in total")
        has: Counter[str] = Counter()
        for account in self._accounts.values():
            if account.name in self._purses:
                has[self._purses[account.name]] += account.credit_nano - account.debit_nano
        for wallet in self._wallets.values():
            due = self._moved[wallet] - (self._charged[wallet] - self._borne[wallet])
            if has[wallet] != due:
                self.complain("I4", f"{wallet} and its grants have {has[wallet]} nano, {due} are due")

    def check_rollups(self) -> None:
        """Compared inside the database: the differing rows only come out."""
        for grain, length_ns in (("hour", NS_PER_HOUR), ("day", 24 * NS_PER_HOUR)):
            summed, stored = _rollup_queries(grain, length_ns)
            for what, query in (
                ("is missing or differs", f"{summed} EXCEPT {stored}"),
                ("has no such usage", f"{stored} EXCEPT {summed}"),
            ):
                for row in self._connection.execute(text(f"{query} LIMIT {_SHOWN_MAX}")):
                    self.complain("I3", f"the {grain} {row[0]} of tenant {row[1]} and {row[2]} {what}")

    def _check_entries(self, batch_id: int, kind: str, entries: Iterable[_Entry]) -> None:
        plain, swapped = FACTS[BatchKind(kind)] if kind in _KINDS else ((), ())
        for entry in entries:
            row = entry.row
            if row.amount_nano <= 0 or not row.currency == entry.debit_currency == entry.credit_currency:
                self.complain("I1", f"batch {batch_id} has an entry of {row.amount_nano} nano {row.currency}")
            kinds = tuple(account.name for account in _PAIRS.get(row.fact, ()))
            sides = (_kind(row.debit), _kind(row.credit))
            if not (row.fact in plain and sides == kinds) and not (row.fact in swapped and sides == kinds[::-1]):
                self.complain("I1", f"batch {batch_id} ({kind}) posts {row.fact} from {row.debit} to {row.credit}")
            self._debits[entry.debit_id] += row.amount_nano
            self._credits[entry.credit_id] += row.amount_nano
            if kind == BatchKind.USAGE:
                if row.fact == Fact.OVERRUN:
                    self._borne["wallet:" + row.debit.partition(":")[2]] += row.amount_nano
            else:
                self._moved[self._purses.get(row.credit, "")] += row.amount_nano
                self._moved[self._purses.get(row.debit, "")] -= row.amount_nano

    def _check_periods(self, before_id: int) -> None:
        """The periods that ended with the batches before this one, against the entries so far."""
        while self._periods and self._periods[0].last_batch_id < before_id:
            period = self._periods.pop(0)
            self._closed_until_ns = period.until_ns
            found = balances_hash(
                Balance(account.name, account.currency, self._debits[account.id], self._credits[account.id])
                for account in self._accounts.values()
            )
            if found != period.balances_hash:
                self.complain("I13", f"period {period.id} was closed with other balances than its entries make")

    def _check_purses(self, batch_id: int, entries: Iterable[_Entry], usage: Iterable[UsageRow]) -> None:
        """No grant below zero; a wallet that was drawn on not below the credit limit it was drawn on under."""
        since: dict[int, int] = {}
        for row in usage:
            since[row.tenant_id] = min(row.opened_ns, since.get(row.tenant_id, row.opened_ns))
        for account_id in {entry.debit_id for entry in entries}:
            account = self._accounts[account_id]
            if account.name not in self._purses:
                continue
            floor = 0
            if account.kind == WALLET.name and account.tenant_id in self._limits:
                history: LimitHistory = self._limits[account.tenant_id]
                floor = -history.greatest(batch_id, since.get(account.tenant_id))
            balance = self._credits[account_id] - self._debits[account_id]
            if balance < floor:
                self.complain("I4", f"batch {batch_id} takes {account.name} to {balance} nano, below {floor}")

    def _check_usage(self, batch_id: int, entries: Iterable[_Entry], usage: Iterable[UsageRow]) -> None:
        used: Counter[tuple[str, str]] = Counter()
        covered: Counter[str] = Counter()  # wallet → the most that holds allow to take
        for row in usage:
            wallet = self._wallets.get(row.tenant_id, f"wallet of tenant {row.tenant_id}")
            used[wallet, row.currency] += row.charge_nano
            used["revenue:" + row.model, row.currency] += row.charge_nano
            used["expense-cpu:" + row.upstream, row.currency] += row.cpu_cost_nano
            used["expense-energy:" + row.upstream, row.currency] += row.energy_cost_nano
            if row.vendor_cost_nano or row.payable_nano:
                used["expense-vendor:" + row.upstream, row.currency] += row.vendor_cost_nano
                used["payable:" + row.upstream, row.payable_currency] += row.payable_nano
            covered[wallet] += min(row.charge_nano, row.hold_nano)
            self._charged[wallet] += row.charge_nano
        booked: Counter[tuple[str, str]] = Counter()
        taken: Counter[str] = Counter()
        for entry in entries:
            _, debit, credit, currency, amount = entry.row
            match entry.row.fact:
                case Fact.CHARGE | Fact.GRANT_SPENT:
                    wallet = self._purses.get(debit, debit)
                    booked[wallet, currency] += amount
                    booked[credit, currency] += amount
                    taken[wallet] += amount
                case Fact.OVERRUN:
                    booked["wallet:" + debit.partition(":")[2], currency] += amount
                    booked[credit, currency] += amount
                case Fact.CPU | Fact.ENERGY | Fact.VENDOR_FX:
                    booked[debit, currency] += amount
                case Fact.VENDOR:
                    booked[debit, currency] += amount
                    booked[credit, currency] += amount
                case Fact.PAYABLE_FX:
                    booked[credit, currency] += amount
        for name, currency in sorted(used.keys() | booked.keys()):
            if used[name, currency] != booked[name, currency]:
                difference = booked[name, currency] - used[name, currency]
                self.complain("I2", f"batch {batch_id} differs by {difference} nano {currency} for {name}")
        for wallet, amount in taken.items():
            if amount > covered[wallet]:
                self.complain("I5", f"batch {batch_id} takes {amount - covered[wallet]} nano above holds from {wallet}")

    def _rerate(self, row: UsageRow) -> None:
        price, cost, exchange = map(self._tariffs.get, (row.price_id, row.cost_id, row.rate_id))
        name = row.request_id.hex()
        if price is None or cost is None or (exchange is None and row.rate_id):
            self.complain("I9", f"{name} names a tariff that is not in the books")
            return
        try:
            rated = self._rate(settlement_of(row), price, cost, exchange)
        except (BooksError, ValueError) as error:
            self.complain("I9", f"{name} cannot be rated again: {error}")
            return
        now, then = amounts_of(rated), amounts_of(row)
        if now != then:
            self.complain("I9", f"{name} was rated {then} and is now {now}")

    def _entries(self) -> Iterator[tuple[int, _Entry]]:
        columns = tables.entries.c
        for row in self._connection.execute(
            select(tables.entries).order_by(columns.batch_id, columns.id), execution_options=_STREAMED
        ):
            debit, credit = self._accounts[row.debit_account_id], self._accounts[row.credit_account_id]
            written = EntryRow(row.fact, debit.name, credit.name, row.currency, row.amount_nano)
            yield row.batch_id, _Entry(written, debit.id, credit.id, debit.currency, credit.currency)

    def _usage(self) -> Iterator[tuple[int, UsageRow]]:
        columns = [tables.usage.c[name] for name in UsageRow._fields]
        order = (tables.usage.c.batch_id, tables.usage.c.request_id)
        for row in self._connection.execute(
            select(tables.usage.c.batch_id, *columns).order_by(*order), execution_options=_STREAMED
        ):
            yield row[0], UsageRow._make(row[1:])


class _Shelf(Generic[T]):
    """Rows in the order of their batches, taken batch by batch."""

    def __init__(self, rows: Iterator[tuple[int, T]]) -> None:
        self._rows = rows
        self._next = next(rows, None)
        self.strays = 0

    def take(self, batch_id: int) -> list[T]:
        """The rows of this batch; those of batches that do not exist are counted and passed over."""
        taken: list[T] = []
        while self._next is not None and self._next[0] <= batch_id:
            if self._next[0] == batch_id:
                taken.append(self._next[1])
            else:
                self.strays += 1
            self._next = next(self._rows, None)
        return taken

    def count_rest(self) -> int:
        """Rows of no batch, once the last batch was taken."""
        return self.strays + (self._next is not None) + sum(1 for _ in self._rows)


def _kind(account: str) -> str:
    return account.partition(":")[0]


def amounts_of(one: Rated | UsageRow) -> tuple[int | str, ...]:
    """All that a request came to: what rating it again must give."""
    spent = (one.cpu_cost_nano, one.energy_cost_nano, one.vendor_cost_nano, one.payable_nano, one.payable_currency)
    return one.charge_nano, *spent


def settlement_of(row: UsageRow) -> Settlement:
    """The settlement behind a usage row; the slot is not kept."""
    opened = Opened(
        row.request_id, row.opened_ns, 0, row.tenant_id, row.project_id, row.key_id, row.model, row.upstream,
        row.price_id, row.cost_id, row.currency, row.hold_nano, row.max_tokens, row.sequences, row.stream,
        rate_id=row.rate_id,
        price_when=row.price_when, cost_when=row.cost_when, thinking=row.thinking,
    )  # fmt: skip
    usage = Usage(
        row.input, row.cached_input, row.output, row.cpu_ns, row.energy_uj, row.cache_write, row.reasoning,
        row.reused_input, row.reused_output,
    )  # fmt: skip
    closed = Closed(
        row.request_id, row.closed_ns, usage, row.end, row.first_token_ns, row.duration_ns, row.short_by_one_read,
        row.estimated, heard_from_text(row.heard), row.measured_uj,
    )  # fmt: skip
    return Settlement(opened, closed)


def _rollup_queries(grain: str, length_ns: int) -> tuple[str, str]:
    """What roll-ups must be, summed from usage, and what they are."""
    keys = "tenant_id, model, currency"
    summed = (
        f"SELECT closed_ns - closed_ns % {length_ns} AS start_ns, {keys}, count(*), sum(input), sum(cached_input),"  # noqa: S608
        " sum(output), sum(cpu_ns), sum(energy_uj), sum(cache_write), sum(reasoning),"
        " sum(reused_input), sum(reused_output), sum(measured_uj), sum(charge_nano),"
        " sum(cpu_cost_nano + energy_cost_nano + vendor_cost_nano)"
        f" FROM usage GROUP BY 1, {keys}"
    )
    stored = (
        f"SELECT start_ns, {keys}, requests, input, cached_input, output, cpu_ns, energy_uj, cache_write, reasoning,"  # noqa: S608
        " reused_input, reused_output, measured_uj, charge_nano, cost_nano"
        f" FROM rollups WHERE grain = '{grain}'"
    )
    return summed, stored
