"""The statement of one tenant's wallet: opening balance, top-ups, charges, closing balance. It re-adds to the nano.

Read from the ledger entries of the wallet, dated by when their batch was posted (within a second of the close), so
that statements of neighbouring periods join without a gap.
"""

from sqlalchemy import Connection

from steelyard.kernel.records import Record


class TopUp(Record, frozen=True):
    batch_id: int
    posted_ns: int
    note: str
    amount_nano: int


class ChargeLine(Record, frozen=True):
    """What one model took from the wallet on one UTC day, and for what."""

    day: str  # "2026-11-23"
    day_start_ns: int
    model: str
    requests: int
    input: int
    cached_input: int
    output: int
    amount_nano: int


class Statement(Record, frozen=True):
    """opening + top-ups − charges = closing."""

    tenant_id: int
    tenant: str
    currency: str
    since_ns: int | None
    until_ns: int | None
    opening_nano: int
    topups: tuple[TopUp, ...]
    topups_nano: int
    charges: tuple[ChargeLine, ...]  # by day, then model
    charges_nano: int
    closing_nano: int


def statement(
    connection: Connection, tenant: str, since_ns: int | None = None, until_ns: int | None = None
) -> Statement:
    """The wallet of the tenant of that name in [since, until). CallerError 404 when there is no such tenant."""
    raise NotImplementedError
