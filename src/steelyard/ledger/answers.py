"""Idempotent requests in the database: who claimed a key, what became of it, and the answer to replay.

Every function works in the caller's transaction, in the one thread that writes. A claim never becomes free again once
its request was charged. Whether it was is read from its usage row, never guessed. Knows no socket and no HTTP.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.ledger.wire import Claim, Kept
from steelyard.storage import tables

_columns = tables.answers.c
_encode = msgspec.msgpack.encode
_KEPT_NS = limits.ANSWER_KEPT_S * NS_PER_S
_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[bytes, bytes], ...]).decode


class State(StrEnum):
    """What became of a claimed key."""

    RUNNING = "running"
    WHOLE = "whole"  # answered and charged; the body may have been too long to keep
    CUT = "cut"  # charged, but the answer did not come to its end, or was lost with its worker


class Found(NamedTuple):
    """What stands under a key already."""

    body_hash: bytes
    request_id: bytes
    state: State
    kept: Kept | None


class Share(NamedTuple):
    """How much of a tenant's room is taken."""

    keys: int = 0
    size_bytes: int = 0


def shares(connection: Connection) -> dict[int, Share]:
    """Tenant → keys remembered and bytes of their answers."""
    size = func.coalesce(func.sum(func.length(_columns.body)), 0)
    query = select(_columns.tenant_id, func.count(), size).group_by(_columns.tenant_id)
    return {row[0]: Share(row[1], row[2]) for row in connection.execute(query)}


def running(connection: Connection) -> list[Claim]:
    """Claims whose request had not ended when last heard of."""
    query = select(*(_columns[name] for name in Claim.__struct_fields__)).where(_runs())
    return [Claim(*row) for row in connection.execute(query)]


def take(connection: Connection, claim: Claim, now_ns: int) -> Found | None:
    """Claim a key. None when it is taken now; else what stands there. An expired answer gives way."""
    row = connection.execute(select(tables.answers).where(_at(claim))).one_or_none()
    if row is not None:
        state = State(row.state)
        if state is State.RUNNING or row.changed_ns > now_ns - _KEPT_NS:
            kept = None if row.headers is None else Kept(_decode_headers(row.headers), row.body)
            return Found(row.body_hash, row.request_id, state, kept)
        connection.execute(delete(tables.answers).where(_at(claim)))
    values = msgspec.structs.asdict(claim) | {"state": State.RUNNING.value, "changed_ns": now_ns}
    connection.execute(insert(tables.answers).values(values))
    return None


def keep(connection: Connection, claim: Claim, kept: Kept, now_ns: int) -> bool:
    """Store the answer of a request that came to its end. False when the claim is no longer this request's."""
    body = kept.body if kept.body is None or len(kept.body) <= limits.ANSWER_BYTES_MAX else None
    values = {
        "state": State.WHOLE.value,
        "changed_ns": now_ns,
        "headers": None if body is None else _encode(kept.headers),
        "body": body,
    }
    return _change(connection, claim, values)


def cut(connection: Connection, claim: Claim, now_ns: int) -> bool:
    """The request was charged and has no whole answer."""
    return _change(connection, claim, {"state": State.CUT.value, "changed_ns": now_ns})


def drop(connection: Connection, claim: Claim) -> bool:
    """Forget a claim whose request sold nothing: the key is free again."""
    return connection.execute(delete(tables.answers).where(_at(claim), _still(claim))).rowcount > 0


def resolve(connection: Connection, claim: Claim, now_ns: int) -> bool:
    """Decide from the books what became of a request that is over: cut when it was charged, else free again."""
    usage = tables.usage.c
    charged = connection.execute(select(usage.charge_nano).where(usage.request_id == claim.request_id)).scalar()
    return cut(connection, claim, now_ns) if charged else drop(connection, claim)


def is_posted(connection: Connection, claim: Claim) -> bool:
    """Whether the request has its usage row."""
    column = tables.usage.c.request_id
    return connection.execute(select(column).where(column == claim.request_id)).first() is not None


def make_room(connection: Connection, tenant_id: int, excess_bytes: int) -> None:
    """Let the tenant's oldest bodies go until `excess_bytes` are free; their keys stay."""
    query = (
        select(_columns.project_id, _columns.key, func.length(_columns.body).label("size"))
        .where(_columns.tenant_id == tenant_id, _columns.body.is_not(None))
        .order_by(_columns.changed_ns)
    )
    for row in connection.execute(query).fetchall():
        if excess_bytes <= 0:
            return
        excess_bytes -= row.size
        here = and_(_columns.project_id == row.project_id, _columns.key == row.key)
        connection.execute(update(tables.answers).where(here).values(headers=None, body=None))


def sweep(connection: Connection, now_ns: int) -> int:
    """Delete expired answers, a bounded number at a time. Returns how many."""
    query = (
        select(_columns.project_id, _columns.key)
        .where(_columns.changed_ns <= now_ns - _KEPT_NS, ~_runs())
        .order_by(_columns.changed_ns)
        .limit(limits.ANSWERS_SWEPT_MAX)
    )
    rows = connection.execute(query).fetchall()
    for project_id, key in rows:
        connection.execute(delete(tables.answers).where(_columns.project_id == project_id, _columns.key == key))
    return len(rows)


def share_of(connection: Connection, tenant_id: int) -> Share:
    """One tenant's share, counted anew."""
    size = func.coalesce(func.sum(func.length(_columns.body)), 0)
    row = connection.execute(select(func.count(), size).where(_columns.tenant_id == tenant_id)).one()
    return Share(row[0], row[1])


def _change(connection: Connection, claim: Claim, values: dict[str, object]) -> bool:
    return connection.execute(update(tables.answers).where(_at(claim), _still(claim)).values(values)).rowcount > 0


def _at(claim: Claim) -> ColumnElement[bool]:
    return and_(_columns.project_id == claim.project_id, _columns.key == claim.key)


def _still(claim: Claim) -> ColumnElement[bool]:
    return and_(_columns.request_id == claim.request_id, _runs())


def _runs() -> ColumnElement[bool]:
    return _columns.state == State.RUNNING.value
