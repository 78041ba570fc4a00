"""The keys of vendors in the database, sealed. Nobody here can open one.

Every function works in the caller's transaction. One key per upstream: a new one takes the place of the old.
"""

import re

from sqlalchemy import Connection, delete, insert, select, update

from steelyard.catalog.entry import check_subject
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.frozen import Record
from steelyard.storage import tables

_TOKEN = re.compile(r"gAAAA[A-Za-z0-9_=-]+")  # version 0x80 and the first zero bytes of a Fernet token's time


class Kept(Record, frozen=True):
    """A credential as people may see it."""

    upstream: str
    shown: str
    set_ns: int


def put_credential(connection: Connection, upstream: str, token: str, shown: str, now_ns: int) -> None:
    """Keep a sealed key. Raises CallerError 400 for what is no sealed key: none is ever kept in the clear."""
    check_subject(upstream, lambda sentence: bad_request(f"'upstream' {sentence}.", "upstream"))
    if not _TOKEN.fullmatch(token) or len(token) > limits.VENDOR_TOKEN_CHARACTERS_MAX:
        raise bad_request("'token' must be a key sealed by upstream.sealed.", "token")
    if len(shown) > limits.SHOWN_CHARACTERS_MAX:
        raise bad_request(f"'shown' has at most {limits.SHOWN_CHARACTERS_MAX} characters.", "shown")
    columns = tables.credentials.c
    values = {"token": token, "shown": shown, "set_ns": now_ns}
    changed = connection.execute(update(tables.credentials).where(columns.upstream == upstream).values(values))
    if not changed.rowcount:
        connection.execute(insert(tables.credentials).values({"upstream": upstream} | values))


def drop_credential(connection: Connection, upstream: str) -> bool:
    """Keep no key for the upstream any more; whether there was one."""
    gone = connection.execute(delete(tables.credentials).where(tables.credentials.c.upstream == upstream))
    return bool(gone.rowcount)


def sealed_credentials(connection: Connection) -> dict[str, str]:
    """Upstream → its sealed key."""
    columns = tables.credentials.c
    return {row.upstream: row.token for row in connection.execute(select(columns.upstream, columns.token))}


def credentials(connection: Connection) -> dict[str, Kept]:
    """Upstream → what may be seen of its key."""
    columns = tables.credentials.c
    rows = connection.execute(select(columns.upstream, columns.shown, columns.set_ns).order_by(columns.upstream))
    return {row.upstream: Kept(row.upstream, row.shown, row.set_ns) for row in rows}
