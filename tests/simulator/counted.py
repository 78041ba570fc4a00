"""The oracle's part on wallet operations, against docs/explain/ledger.md: what every wallet and grant has must come out.

While it runs it knows bounds: what may have arrived, what certainly has. At rest it goes through the batches in their
order, with what was asked and answered, what customers used, and its own rule of what a charge draws on.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, select

from steelyard.storage import tables

if TYPE_CHECKING:
    from tests.simulator.oracle import Oracle


class Done(NamedTuple):
    """One operation: what it does to wallets, and to which grant."""

    kind: str
    deltas: dict[int, int]  # tenant → nano
    expires_ns: int = 0
    given: tuple[int, int] | None = None  # (tenant, amount) of a grant
    reverses: int | None = None
    request_id: bytes | None = None


class Counted:
    """All operations of one world."""

    def __init__(self, oracle: "Oracle") -> None:
        self._oracle = oracle
        self.done: dict[int, Done] = {}  # batch → what was answered that it is
        self.reversing: set[int] = set()
        self.credit: dict[int, int] = {}  # tenant → the greatest credit limit ever asked for
        self.granted: dict[int, int] = {}  # tenant → all that may ever have been given
        self.allowances: dict[int, list[int]] = {}  # tenant → amounts

    def give(self, tenant_id: int, amount_nano: int) -> None:
        self.granted[tenant_id] = self.granted.get(tenant_id, 0) + amount_nano

    def beside(self, tenant_id: int) -> int:
        """What a tenant may have had beside his wallet, at most."""
        return self.credit.get(tenant_id, 0) + self.granted.get(tenant_id, 0)

    def sent(self, deltas: dict[int, int]) -> None:
        """It may happen from now on: what is added may be there, what is taken may be gone."""
        oracle = self._oracle
        for tenant_id, nano in deltas.items():
            if nano > 0:
                oracle.sent[tenant_id] = oracle.sent.get(tenant_id, 0) + nano
            else:
                self._least(tenant_id, nano)

    def confirmed(self, batch_id: int, done: Done, amount_nano: int) -> None:
        oracle = self._oracle
        if batch_id in self.done:
            oracle.fault(f"batch {batch_id} was answered to two operations")
        if done.kind == "credit":  # how much it is, only the answer says
            ((tenant_id, most),) = done.deltas.items()
            oracle.sent[tenant_id] += amount_nano - most
            done = done._replace(deltas={tenant_id: amount_nano})
        for tenant_id, nano in done.deltas.items():
            if nano > 0:
                self._least(tenant_id, nano)
            else:
                oracle.sent[tenant_id] += nano
        self.done[batch_id] = done

    def refused(self, done: Done) -> None:
        """It did not happen."""
        for tenant_id, nano in done.deltas.items():
            if nano > 0:
                self._oracle.sent[tenant_id] -= nano
            else:
                self._least(tenant_id, -nano)
        if done.reverses is not None:
            self.reversing.discard(done.reverses)

    def _least(self, tenant_id: int, nano: int) -> None:
        oracle = self._oracle
        oracle.confirmed[tenant_id] = least = oracle.confirmed.get(tenant_id, 0) + nano
        for request_id in oracle.recent.get(tenant_id, ()):
            one = oracle.requests[request_id]
            one.paid_nano = min(one.paid_nano, least)

    def check(self, connection: Connection) -> None:
        """Every batch is one that was asked for, every wallet and grant has what the batches leave it."""
        for fault in _Recount(connection, self).faults():
            self._oracle.fault(fault)


class _Grant:
    def __init__(self, tenant_id: int, left: int, expires_ns: int, number: int) -> None:
        self.tenant_id, self.left, self.expires_ns, self.number = tenant_id, left, expires_ns, number


class _Recount:
    """Once through the batches."""

    def __init__(self, connection: Connection, counted: Counted) -> None:
        self._connection, self._counted = connection, counted
        self.wallets: dict[int, int] = defaultdict(int)
        self.grants: dict[int, _Grant] = {}  # account → grant
        self._batch_of: dict[int, list[int]] = defaultdict(list)  # batch → accounts of its grants
        self._given = {row.account_id: row for row in connection.execute(select(tables.grants))}
        self._charges: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        usage = tables.usage.c
        self._charged: dict[bytes, int] = {}
        query = select(usage.batch_id, usage.tenant_id, usage.request_id, usage.charge_nano, usage.hold_nano)
        for batch_id, tenant_id, request_id, charge, hold in connection.execute(query):
            self._charges[batch_id][tenant_id] += min(charge, hold)
            self._charged[request_id] = min(charge, hold)
        for account_id, row in self._given.items():
            self._batch_of[row.batch_id].append(account_id)

    def faults(self) -> Iterator[str]:
        batches = self._connection.execute(select(tables.batches).order_by(tables.batches.c.id)).all()
        for batch in batches:
            if batch.kind == "usage":
                self._charge(batch.id)
            elif batch.kind == "expiry":
                yield from self._expire(batch)
            elif batch.id in self._counted.done:
                yield from self._operation(batch.id, self._counted.done[batch.id])
            else:
                yield from self._allowance(batch)
        unknown = self._counted.done.keys() - {batch.id for batch in batches}
        if unknown:
            yield f"the operations {sorted(unknown)} were confirmed and are not in the books"
        yield from self._compare()

    def _charge(self, batch_id: int) -> None:
        """Grants first, the earliest expiry first, then the wallet."""
        for tenant_id, charged in self._charges[batch_id].items():
            due = charged
            mine = [grant for grant in self.grants.values() if grant.tenant_id == tenant_id and grant.left]
            for grant in sorted(mine, key=lambda one: (one.expires_ns, one.number)):
                taken = min(due, grant.left)
                grant.left, due = grant.left - taken, due - taken
            self.wallets[tenant_id] -= due

    def _expire(self, batch: Any) -> Iterator[str]:
        columns = tables.entries.c
        query = select(columns.debit_account_id, columns.amount_nano).where(columns.batch_id == batch.id)
        for account_id, nano in self._connection.execute(query):
            grant = self.grants.get(account_id)
            if grant is None or nano > grant.left:
                yield f"batch {batch.id} lets {nano} of grant {account_id} expire, which has less"
            else:
                grant.left -= nano

    def _operation(self, batch_id: int, done: Done) -> Iterator[str]:
        for tenant_id, nano in done.deltas.items():
            self.wallets[tenant_id] += nano
        if done.given is not None:
            yield from self._give(batch_id, *done.given, done.expires_ns)
        if done.request_id is not None:
            self._charged[done.request_id] = left = self._charged.get(done.request_id, 0) - sum(done.deltas.values())
            if left < 0:
                yield f"{done.request_id.hex()} was given back {-left} more than it was charged"
        for account_id in self._batch_of[done.reverses] if done.reverses is not None else ():
            grant = self.grants[account_id]
            grant.left -= self._given[account_id].amount_nano
            if grant.left < 0:
                yield f"batch {batch_id} takes a grant back that was spent in part"

    def _allowance(self, batch: Any) -> Iterator[str]:
        for account_id in self._batch_of[batch.id]:
            row = self._given[account_id]
            known = self._counted.allowances.get(row.tenant_id, ())
            if row.allowance_id is None or row.amount_nano not in known:
                yield f"batch {batch.id} gives a grant that nobody asked for"
            self.grants[account_id] = _Grant(row.tenant_id, row.amount_nano, row.expires_ns, row.id)
        if not self._batch_of[batch.id]:
            yield f"batch {batch.id} is a {batch.kind} that nobody asked for"

    def _give(self, batch_id: int, tenant_id: int, amount: int, expires_ns: int) -> Iterator[str]:
        found = [self._given[account_id] for account_id in self._batch_of[batch_id]]
        if [(row.tenant_id, row.amount_nano, row.expires_ns) for row in found] != [(tenant_id, amount, expires_ns)]:
            yield f"batch {batch_id} is not the grant of {amount} to tenant {tenant_id} that was confirmed"
        for row in found:
            self.grants[row.account_id] = _Grant(tenant_id, amount, expires_ns, row.id)

    def _compare(self) -> Iterator[str]:
        columns = tables.accounts.c
        query = select(
            columns.id, columns.kind, columns.name, columns.tenant_id, columns.credit_nano - columns.debit_nano
        )
        for account_id, kind, name, tenant_id, nano in self._connection.execute(query):
            if kind == "wallet" and nano != self.wallets[tenant_id]:
                yield f"{name} has {nano}, should have {self.wallets[tenant_id]}"
            if kind == "wallet" and nano < -self._counted.credit.get(tenant_id, 0):
                yield f"{name} is further below zero than any credit limit: {nano}"
            grant = self.grants.get(account_id)
            if kind == "grant" and (grant is None or nano != grant.left):
                yield f"{name} has {nano}, should have {grant and grant.left}"
