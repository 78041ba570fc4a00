"""Where the books stand before a batch: all that posting must know of them whatever it posts, read at once.

Reads only, in the caller's transaction. A batch costs as much as its statements, however little is in it.
"""

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select

from steelyard.ledger.chain import GENESIS
from steelyard.ledger.salt import SECRET
from steelyard.storage import tables
from steelyard.storage.bulk import bulk


class Standing(NamedTuple):
    """The last batch, and what decides about the next one."""

    batch_id: int  # 0: there is none yet
    hash: bytes
    posted_ns: int
    closed_until_ns: int  # nothing is posted before; 0 when no period was closed
    secret: bytes | None  # what salts are made from, see ledger.salt
    newest: bytes | None  # the greatest id of a posted request
    has_limits: bool  # whether anybody was ever given a credit limit, or a grant
    has_grants: bool


def _last(column: ColumnElement[Any]) -> Any:
    return select(column).order_by(tables.batches.c.id.desc()).limit(1).scalar_subquery()


def _greatest(column: ColumnElement[Any]) -> Any:
    return select(func.max(column)).scalar_subquery()


_batches = tables.batches.c
# Made once: making a statement takes longer than running it.
_STANDING = select(
    _last(_batches.id),
    _last(_batches.hash),
    _last(_batches.posted_ns),
    _greatest(tables.periods.c.until_ns),
    SECRET.scalar_subquery(),
    select(tables.usage.c.request_id).order_by(tables.usage.c.request_id.desc()).limit(1).scalar_subquery(),
    _greatest(tables.credit_limits.c.id),
    _greatest(tables.grants.c.id),
)


def read_standing(connection: Connection) -> Standing:
    """The standing as this transaction sees it."""
    batch_id, link, posted_ns, closed_ns, secret, newest, limit, grant = bulk(connection).ask(connection, _STANDING)[0]
    return Standing(
        batch_id or 0,
        GENESIS if link is None else link,
        posted_ns or 0,
        closed_ns or 0,
        secret,
        newest,
        limit is not None,
        grant is not None,
    )
