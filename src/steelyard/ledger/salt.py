"""The salts of the batches: secret to customers, stored with each batch so that the books can be verified at any time.

A salt comes from a secret that the books make once; without one (a database nobody serves from) it comes from the chain
alone, which hides nothing but keeps the same rows giving the same hash.
"""

import hmac
import os
from collections.abc import Callable

from sqlalchemy import Connection, insert, select

from steelyard.storage import tables

_NAME = "chain"
SECRET = select(tables.secrets.c.value).where(tables.secrets.c.name == _NAME)


def ensure_secret(connection: Connection, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
    """Make the secret unless there is one."""
    if connection.execute(SECRET).scalar() is None:
        connection.execute(insert(tables.secrets).values(name=_NAME, value=random_bytes(32)))


def salt_for(secret: bytes | None, batch_id: int, previous_hash: bytes) -> bytes:
    """Thirty-two bytes for the batch that follows `previous_hash`."""
    return hmac.digest(secret or b"", batch_id.to_bytes(8, "big") + previous_hash, "sha256")
