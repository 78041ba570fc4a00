"""Stored responses in the database.

Every function works in the caller's transaction; reads never see what is older than `since_ns`, though it may not be
swept yet. Knows no retention and no JSON.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, literal, select

from steelyard.kernel.stored import StoredResponse
from steelyard.storage import tables

_columns = tables.responses.c
_FIELDS = [_columns[name] for name in StoredResponse.__struct_fields__]
_IDS_PER_QUERY_MAX = 500  # parameters of one statement are bounded


def put(connection: Connection, responses: Sequence[StoredResponse]) -> list[StoredResponse]:
    """Write those that are not there yet, and return them."""
    known = {found.id for found in find(connection, [one.id for one in responses], 0)}
    new = [one for one in responses if one.id not in known]
    if new:
        rows = [{**msgspec.structs.asdict(one), "size_bytes": one.size_bytes} for one in new]
        connection.execute(insert(tables.responses), rows)
    return new


def find(connection: Connection, ids: Sequence[bytes], since_ns: int) -> list[StoredResponse]:
    """Those of the ids that are there, in no order."""
    found: list[StoredResponse] = []
    for at in range(0, len(ids), _IDS_PER_QUERY_MAX):
        some = ids[at : at + _IDS_PER_QUERY_MAX]
        query = select(*_FIELDS).where(_columns.id.in_(some), _columns.created_ns >= since_ns)
        found += map(_response, connection.execute(query))
    return found


def chain(
    connection: Connection, response_id: bytes, since_ns: int, most: int
) -> list[tuple[bytes, bytes | None, int]]:
    """(id, the one before it, size in bytes) of a response and those it goes on from, latest first, at most so many."""
    columns = (_columns.id, _columns.previous_id, _columns.size_bytes)
    links = (
        select(*columns, literal(1).label("depth"))
        .where(_columns.id == response_id, _columns.created_ns >= since_ns)
        .cte("links", recursive=True)
    )
    links = links.union_all(
        select(*columns, links.c.depth + 1).where(
            _columns.id == links.c.previous_id, _columns.created_ns >= since_ns, links.c.depth < most
        )
    )
    query = select(links.c.id, links.c.previous_id, links.c.size_bytes).order_by(links.c.depth)
    return [(row.id, row.previous_id, row.size_bytes) for row in connection.execute(query)]


def delete_one(connection: Connection, response_id: bytes) -> int | None:
    """Returns its size; None when there was none."""
    here = _columns.id == response_id
    size_bytes = connection.execute(select(_columns.size_bytes).where(here)).scalar()
    if size_bytes is not None:
        connection.execute(delete(tables.responses).where(here))
    return size_bytes


def make_room(connection: Connection, tenant_id: int, excess_bytes: int) -> int:
    """Delete a tenant's oldest until `excess_bytes` are free. Returns how many bytes that were."""
    query = (
        select(_columns.id, _columns.size_bytes)
        .where(_columns.tenant_id == tenant_id)
        .order_by(_columns.created_ns, _columns.id)
    )
    freed_bytes, oldest = 0, []
    for row in connection.execute(query):
        if freed_bytes >= excess_bytes:
            break
        oldest.append(row.id)
        freed_bytes += row.size_bytes
    _delete(connection, oldest)
    return freed_bytes


def sweep(connection: Connection, before_ns: int, most: int) -> int:
    """Delete those created before, at most so many. Returns how many that were."""
    query = select(_columns.id).where(_columns.created_ns < before_ns).order_by(_columns.created_ns).limit(most)
    old = list(connection.execute(query).scalars())
    _delete(connection, old)
    return len(old)


def shares(connection: Connection) -> dict[int, int]:
    """Tenant → bytes it has stored."""
    query = select(_columns.tenant_id, func.sum(_columns.size_bytes)).group_by(_columns.tenant_id)
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def _delete(connection: Connection, ids: Sequence[bytes]) -> None:
    for at in range(0, len(ids), _IDS_PER_QUERY_MAX):
        connection.execute(delete(tables.responses).where(_columns.id.in_(ids[at : at + _IDS_PER_QUERY_MAX])))


def _response(row: Row[tuple[object, ...]]) -> StoredResponse:
    return StoredResponse(**row._mapping)
