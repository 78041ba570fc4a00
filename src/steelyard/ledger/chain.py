"""The canonical bytes of a batch and their hash: each batch hash covers the one before (I11).

Owns which fields count. Account names, not row ids, are hashed, so renaming an account breaks the chain. Pure.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

GENESIS = bytes(32)
"""What the first batch follows."""

_encode = msgspec.msgpack.Encoder().encode


class EntryRow(NamedTuple):
    """One entry as it is hashed."""

    fact: str
    debit: str
    credit: str
    currency: str
    amount_nano: int


class UsageRow(NamedTuple):
    """One usage row without its batch: the columns of storage.tables.usage, in this order."""

    request_id: bytes
    opened_ns: int
    closed_ns: int
    tenant_id: int
    project_id: int
    key_id: int
    model: str
    upstream: str
    price_id: int
    cost_id: int
    currency: str
    sequences: int
    stream: bool
    max_tokens: int
    input: int
    cached_input: int
    output: int
    cpu_ns: int
    energy_uj: int
    hold_nano: int
    charge_nano: int
    cpu_cost_nano: int
    energy_cost_nano: int
    end: str
    first_token_ns: int
    duration_ns: int
    short_by_one_read: bool


def hash_batch(
    previous: bytes,
    header: tuple[int, int, str, str, int],
    entries: Iterable[EntryRow],
    usage: Iterable[UsageRow],
) -> bytes:
    """SHA-256 over the previous hash, the header (id, posted_ns, kind, note, requests), then entries and usage rows.

    Entries count in the order they were written, usage rows in the order of their request ids.
    """
    digest = hashlib.sha256(previous)
    digest.update(_encode(header))
    for entry in entries:
        digest.update(_encode(entry))
    for row in usage:
        digest.update(_encode(row))
    return digest.digest()
