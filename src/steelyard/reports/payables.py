"""What is owed to vendors: each in his own currency, and how much of it is still an estimate."""

from sqlalchemy import Connection, case, func, select

from steelyard.kernel.frozen import Record
from steelyard.ledger.accounts import PAYABLE
from steelyard.reports.sums import whole
from steelyard.storage import tables


class PayableRow(Record, frozen=True):
    """One vendor in one currency. `payable_nano` is the account's balance, bills that were reconciled included."""

    vendor: str
    currency: str
    requests: int
    payable_nano: int
    used_nano: int  # of it, what requests came to
    estimated: int  # requests whose cost is estimated
    estimated_nano: int


def payables(connection: Connection) -> list[PayableRow]:
    """By vendor and currency."""
    accounts, usage = tables.accounts.c, tables.usage.c
    columns = (accounts.name, accounts.currency, (accounts.credit_nano - accounts.debit_nano).label("balance"))
    owed = {
        (row.name.partition(":")[2], row.currency): row.balance
        for row in connection.execute(select(*columns).where(accounts.kind == PAYABLE.name))
    }
    guessed = case((usage.cost_estimated, usage.payable_nano), else_=0)
    query = (
        select(
            usage.upstream,
            usage.payable_currency,
            func.count(),
            whole(usage.payable_nano),
            whole(case((usage.cost_estimated, 1), else_=0)),
            whole(guessed),
        )
        .where(usage.payable_currency != "")
        .group_by(usage.upstream, usage.payable_currency)
    )
    used = {(row[0], row[1]): row[2:] for row in connection.execute(query)}
    return [
        PayableRow(*place, requests, owed.get(place, 0), used_nano, estimated, estimated_nano)
        for place in sorted(owed.keys() | used.keys())
        for requests, used_nano, estimated, estimated_nano in [used.get(place, (0, 0, 0, 0))]
    ]
