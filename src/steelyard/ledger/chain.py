"""The canonical bytes of a batch and their hash: each batch hash covers the one before (I11).

    hash    = SHA-256(previous hash, content)
    content = SHA-256(SHA-256(header), entries digest, SHA-256(row digests))

A customer can recompute it from his own rows and the digests of the rest. Owns which fields count and who may see
them. Account names, not row ids, are hashed, so renaming an account breaks the chain. Pure.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from steelyard.kernel.quantities import Usage

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
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False
    vendor_cost_nano: int = 0
    payable_nano: int = 0
    payable_currency: str = ""
    rate_id: int = 0
    cost_estimated: bool = False
    heard: str = ""  # the counts a vendor bills, where they are more than the row's: see `heard_text`
    price_when: int = 0
    cost_when: int = 0
    thinking: int = 0
    reused_input: int = 0
    reused_output: int = 0
    measured_uj: int = 0


SUMMED = (
    "input", "cached_input", "output", "cpu_ns", "energy_uj", "cache_write", "reasoning",
    "reused_input", "reused_output", "measured_uj", "charge_nano",
)  # fmt: skip
"""Columns of a usage row that roll-ups and reports add up, beside the costs."""
PRIVATE = ("upstream", "cost_id", "cpu_ns", "energy_uj", "cpu_cost_nano", "energy_cost_nano")
"""Columns of a usage row that are our own affair: a customer who checks his row gets their salted digest only."""
LATER = (
    "cache_write", "reasoning", "estimated", "price_when", "thinking", "reused_input", "reused_output",
)  # fmt: skip
"""Columns that batches from before them have not hashed. Behind the others they count as far as the last that says
something, so a row in which none does is hashed as it always was."""
LATER_PRIVATE = (
    "vendor_cost_nano", "payable_nano", "payable_currency", "rate_id", "cost_estimated", "heard", "cost_when",
    "measured_uj",
)  # fmt: skip
"""The same among the columns that are our own affair. Both only grow at their end."""
PUBLIC = tuple(name for name in UsageRow._fields if name not in (*PRIVATE, *LATER, *LATER_PRIVATE))
EARLIER = len(UsageRow._fields) - len(LATER) - len(LATER_PRIVATE)
"""All that came later stands behind the rest in a row."""
NOTHING_LATER = (*UsageRow._field_defaults.values(),)
"""What stands there in a row in which none of it says anything; the database writes it by itself."""


def _getter(names: Sequence[str]) -> Callable[[UsageRow], tuple[Any, ...]]:
    return itemgetter(*(UsageRow._fields.index(name) for name in names))


_public_of, _private_of = _getter(PUBLIC), _getter(PRIVATE)
_later_public_of, _later_private_of = _getter(LATER), _getter(LATER_PRIVATE)


class SealedRow(NamedTuple):
    """A usage row as its customer may see it: his columns' canonical bytes, and the digest of ours."""

    public: bytes
    private_digest: bytes


def seal_row(row: UsageRow, salt: bytes) -> SealedRow:
    """The salt keeps the few likely values of our columns from being guessed from their digest."""
    private = _private_of(row) + _told(_later_private_of(row))
    private_digest = sha256(salt + row.request_id + _encode(private)).digest()
    return SealedRow(_encode(_public_of(row) + _told(_later_public_of(row))), private_digest)


def _told(later: tuple[object, ...]) -> tuple[object, ...]:
    """Later columns without those at their end that say nothing."""
    while later and not later[-1]:
        later = later[:-1]
    return later


def heard_text(heard: Usage | None) -> str:
    """Counts as a column keeps them, in the order of the buckets: "31,0,0,12,0"; empty for None."""
    if heard is None:
        return ""
    return f"{heard.input},{heard.cached_input},{heard.cache_write},{heard.output},{heard.reasoning}"


def heard_from_text(text: str) -> Usage | None:
    """Raises ValueError when it is no such text."""
    if not text:
        return None
    fresh, cached, cache_write, output, reasoning = map(int, text.split(","))
    return Usage(fresh, cached, output, cache_write=cache_write, reasoning=reasoning)


def row_digest(row: SealedRow) -> bytes:
    return sha256(row.private_digest + row.public).digest()


def header_bytes(header: tuple[int, int, str, str, int]) -> bytes:
    """Batch id, posted_ns, kind, note, number of usage rows."""
    return _encode(header)


def entries_digest(entries: Iterable[EntryRow], salt: bytes) -> bytes:
    """Entries name other tenants and their sums, so they are salted too. They count in the order they were written."""
    digest = sha256(salt)
    for entry in entries:
        digest.update(_encode(entry))
    return digest.digest()


def content_digest(header: bytes, entries: bytes, rows: Iterable[bytes]) -> bytes:
    """What a batch holds, from its header, the digest of its entries and those of its rows (by request id)."""
    return sha256(sha256(header).digest() + entries + sha256(b"".join(rows)).digest()).digest()


def link(previous: bytes, content: bytes) -> bytes:
    """A batch's hash."""
    return sha256(previous + content).digest()


def content_of(
    header: tuple[int, int, str, str, int], entries: Iterable[EntryRow], usage: Iterable[UsageRow], salt: bytes
) -> bytes:
    """The content of a whole batch; usage rows in the order of their request ids."""
    encode, private_of, public_of = _encode, _private_of, _public_of  # this loop is most of what a hash costs
    rows = []
    for row in usage:  # row_digest(seal_row(row, salt))
        private, public = private_of(row), public_of(row)
        if row[EARLIER:] != NOTHING_LATER:
            private += _told(_later_private_of(row))
            public += _told(_later_public_of(row))
        private_digest = sha256(salt + row[0] + encode(private)).digest()
        rows.append(sha256(private_digest + encode(public)).digest())
    return content_digest(header_bytes(header), entries_digest(entries, salt), rows)


def hash_unsealed(
    previous: bytes,
    header: tuple[int, int, str, str, int],
    entries: Iterable[EntryRow],
    usage: Iterable[UsageRow],
) -> bytes:
    """The hash of a batch without salt, as books before version 0003 of their schema wrote them: over the rows
    themselves, so that nobody can check it without seeing all of them."""
    digest = sha256(previous)
    digest.update(_encode(header))
    for entry in entries:
        digest.update(_encode(entry))
    for row in usage:
        later = _told(_later_public_of(row)) + _told(_later_private_of(row))
        digest.update(_encode(row[:EARLIER] + later))
    return digest.digest()
