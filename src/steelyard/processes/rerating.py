"""Posting a re-rating: checks what was asked, sets aside what wallets have to give, tells the teller afterwards.

The differences come from `reports.rerate`, computed by whoever asks over rows that never change, though others may
follow; what may be posted, and how often, is decided here and in `ledger.corrections`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import bad_request
from steelyard.kernel.money import INT64_MAX
from steelyard.ledger.corrections import Correction, Period, post_correction, refuse_newer
from steelyard.ledger.purses import read_purses
from steelyard.ledger.teller import Teller
from steelyard.processes.outcome import Outcome

OWNER = "rerate"
_Amount = Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]


class CorrectionAsked(msgspec.Struct, frozen=True, kw_only=True):
    tenant_id: int
    model: str
    currency: str
    wallet_nano: _Amount
    overrun_nano: _Amount


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of "rerate.post". `available` is what the teller set aside; without it the balances count.
    `last_batch` is the newest that the differences were made from."""

    book: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    since_ns: Annotated[int, Meta(ge=0)]
    until_ns: Annotated[int, Meta(ge=1)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    actor: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARACTERS_MAX)]
    corrections: Annotated[list[CorrectionAsked], Meta(max_length=limits.CORRECTIONS_MAX)]
    last_batch: Annotated[int, Meta(ge=0, le=INT64_MAX)]
    available: dict[int, int] | None = None


def post_rerating(connection: Connection, payload: dict[str, Any], clock: Clock) -> Outcome:
    """Post it, once for a book and period. Raises CallerError."""
    asked = _asked(payload)
    if not asked.since_ns < asked.until_ns <= clock.now_ns() - limits.RERATED_AFTER_S * NS_PER_S:
        raise bad_request(
            f"The period must have ended {limits.RERATED_AFTER_S} seconds ago, so that all of it is posted.", "until"
        )
    period = Period(bytes.fromhex(asked.book), asked.since_ns, asked.until_ns)
    refuse_newer(connection, period, asked.last_batch)
    corrections = [
        Correction(one.tenant_id, one.model, one.currency, one.wallet_nano, one.overrun_nano)
        for one in asked.corrections
        if one.wallet_nano or one.overrun_nano
    ]
    purses = read_purses(connection, {one.tenant_id for one in corrections})
    available = {tenant: purse.wallet_nano + purse.limit_nano for tenant, purse in purses.items()}
    if asked.available is not None:
        available = {one: min(room, asked.available.get(one, 0)) for one, room in available.items()}
    posted = post_correction(connection, period, corrections, available, (asked.reason, asked.actor), clock)
    reply = {
        "batch": posted.batch_id,
        "posted_before": posted.again,
        "taken": [{"tenant_id": tenant, "wallet_nano": amount} for tenant, amount in sorted(posted.taken.items())],
    }
    return Outcome(reply, read_purses(connection, posted.taken))


async def correct(
    teller: Teller, payload: dict[str, Any], execute: Callable[[str, dict[str, Any]], Awaitable[Outcome]]
) -> Outcome:
    """Post it by `execute`, with what wallets have to give set aside first: no request is granted the same money.

    The purses of the outcome must be taken over in the same turn of the loop.
    """
    with set_aside(teller, payload) as available:
        return await execute("rerate.post", payload | {"available": available})


@contextmanager
def set_aside(teller: Teller, payload: dict[str, Any]) -> Iterator[dict[int, int]]:
    """Hold what each wallet is to give, or as much as it has; given back at the end, when it was taken or not."""
    asked = _asked(payload)
    wanted: dict[int, int] = defaultdict(int)
    for one in asked.corrections:
        wanted[one.tenant_id] += max(0, one.wallet_nano)
    granted: dict[int, int] = {}
    try:
        for tenant, amount in wanted.items():
            most = min(amount, teller.collectable(tenant))
            granted[tenant] = teller.hold(_hold_id(tenant), tenant, most, 0, OWNER)
        yield granted
    finally:
        for tenant in granted:
            teller.release(_hold_id(tenant))


def _hold_id(tenant_id: int) -> bytes:
    return hashlib.sha256(f"{OWNER}:{tenant_id}".encode()).digest()[:16]


def _asked(payload: dict[str, Any]) -> Asked:
    try:
        return msgspec.convert(payload, Asked)
    except msgspec.ValidationError as error:
        raise bad_request(f"This cannot be posted: {error}.") from None
