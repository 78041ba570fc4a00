"""The snapshot workers decide by, read from the database but for the keys, and the counters behind it.

Owns the version numbers (`snapshot`, `epoch`): they only grow, and grow in the transaction that changes something.
"""

from sqlalchemy import Connection, insert, select, update

from steelyard.catalog.credentials import sealed_credentials
from steelyard.catalog.routes import routes
from steelyard.catalog.store import snapshot_parts
from steelyard.identity.store import operator_names
from steelyard.kernel.records import Callers, CallersKept, Snapshot
from steelyard.storage import tables

SNAPSHOT = "snapshot"
EPOCH = "epoch"


def read_snapshot(connection: Connection, callers: Callers | None = None) -> Snapshot:
    """Everything that is live now, with its version. The keys are the table's, which is kept by itself: `callers`."""
    operators = operator_names(connection)
    parts = snapshot_parts(connection)
    return Snapshot(
        _read(connection, SNAPSHOT),
        CallersKept() if callers is None else callers,
        frozenset(operators),
        parts.models,
        parts.prices,
        parts.costs,
        operators,
        credentials=sealed_credentials(connection),
        rates=parts.rates,
        routes=routes(connection),
    )


def new_snapshot(connection: Connection) -> Snapshot:
    """What a transaction that changed something leaves for the workers."""
    bump(connection, SNAPSHOT)
    return read_snapshot(connection)


def snapshot_version(connection: Connection) -> int:
    """That of the newest snapshot."""
    return _read(connection, SNAPSHOT)


def bump(connection: Connection, counter: str) -> int:
    """The counter's next value, durable once the transaction is."""
    columns = tables.counters.c
    change = update(tables.counters).where(columns.name == counter).values(value=columns.value + 1)
    if not connection.execute(change).rowcount:
        connection.execute(insert(tables.counters).values(name=counter, value=1))
    return _read(connection, counter)


def _read(connection: Connection, counter: str) -> int:
    columns = tables.counters.c
    return int(connection.execute(select(columns.value).where(columns.name == counter)).scalar_one_or_none() or 0)
