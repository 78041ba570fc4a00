"""Posting a re-rating: checks what was asked, sets aside what wallets have to give, tells the teller afterwards.

The differences come from `reports.rerate`, computed by whoever asks over rows that never change; what may be posted,
and how often, is decided here and in `ledger.corrections`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import bad_request
from steelyard.kernel.money import INT64_MAX
from steelyard.ledger.corrections import Correction, Period, post_correction
from steelyard.ledger.purses import wallet_balances
from steelyard.ledger.teller import Teller

if TYPE_CHECKING:
    from steelyard.processes.office import Outcome

OWNER = "rerate"
_Amount = Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]


class CorrectionAsked(msgspec.Struct, frozen=True, kw_only=True):
    tenant_id: int
    model: str
    currency: str
    wallet_nano: _Amount
    overrun_nano: _Amount


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of "rerate.post". `available` is what the teller set aside; without it the balances count."""

    book: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    since_ns: Annotated[int, Meta(ge=0)]
    until_ns: Annotated[int, Meta(ge=1)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    actor: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARACTERS_MAX)]
    corrections: Annotated[list[CorrectionAsked], Meta(max_length=limits.CORRECTIONS_MAX)]
    available: dict[int, int] | None = None


def post_rerating(connection: Connection, payload: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Post it, once for a book and period. Raises CallerError."""
    asked = _asked(payload)
    if not asked.since_ns < asked.until_ns <= clock.now_ns() - limits.RERATED_AFTER_S * NS_PER_S:
        raise bad_request(
            f"The period must have ended {limits.RERATED_AFTER_S} seconds ago, so that all of it is posted.", "until"
        )
    period = Period(bytes.fromhex(asked.book), asked.since_ns, asked.until_ns)
    corrections = [
        Correction(one.tenant_id, one.model, one.currency, one.wallet_nano, one.overrun_nano)
        for one in asked.corrections
        if one.wallet_nano or one.overrun_nano
    ]
    available = wallet_balances(connection) if asked.available is None else asked.available
    posted = post_correction(connection, period, corrections, available, (asked.reason, asked.actor), clock)
    return {
        "batch": posted.batch_id,
        "posted_before": posted.again,
        "taken": [{"tenant_id": tenant, "wallet_nano": amount} for tenant, amount in sorted(posted.taken.items())],
    }


async def correct(
    teller: Teller, payload: dict[str, Any], execute: "Callable[[str, dict[str, Any]], Awaitable[Outcome]]"
) -> Any:
    """Post it by `execute`, with what wallets have to give set aside first: no request is granted the same money."""
    with set_aside(teller, payload) as available:
        reply = (await execute("rerate.post", payload | {"available": available})).reply
        tell(teller, reply, available)
    return reply


@contextmanager
def set_aside(teller: Teller, payload: dict[str, Any]) -> Iterator[dict[int, int]]:
    """Hold what each wallet is to give, or as much as it has; given back at the end unless it was taken."""
    asked = _asked(payload)
    wanted: dict[int, int] = defaultdict(int)
    for one in asked.corrections:
        wanted[one.tenant_id] += max(0, one.wallet_nano)
    granted = {tenant: teller.hold(_hold_id(tenant), tenant, amount, 0, OWNER) for tenant, amount in wanted.items()}
    try:
        yield granted
    finally:
        for tenant in granted:
            teller.release(_hold_id(tenant))


def tell(teller: Teller, reply: dict[str, Any], granted: dict[int, int]) -> None:
    """What the commit moved: taken from the holds, or added to the wallets."""
    for one in reply["taken"]:
        tenant, amount = one["tenant_id"], one["wallet_nano"]
        if amount > 0:
            teller.settle(_hold_id(tenant), tenant, granted[tenant], amount)
        else:
            teller.topup(tenant, -amount)


def _hold_id(tenant_id: int) -> bytes:
    return hashlib.sha256(f"{OWNER}:{tenant_id}".encode()).digest()[:16]


def _asked(payload: dict[str, Any]) -> Asked:
    try:
        return msgspec.convert(payload, Asked)
    except msgspec.ValidationError as error:
        raise bad_request(f"This cannot be posted: {error}.") from None
