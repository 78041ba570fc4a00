"""Posting what a vendor's bill changes: checks what was asked, and leaves the rest to `ledger.reconciliation`.

The differences come from `reports.reconcile`, computed by whoever asks over rows that never change.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import bad_request
from steelyard.kernel.money import CURRENCIES, INT64_MAX
from steelyard.ledger.reconciliation import Adjustment, post_adjustment
from steelyard.processes.outcome import Outcome
from steelyard.processes.payload import why_of

_MOST_NANO = INT64_MAX // 1000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of "reconcile.post", beside reason and actor."""

    vendor: Annotated[str, Meta(min_length=1, max_length=limits.SUBJECT_CHARACTERS_MAX)]
    file: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    currency: str
    since_ns: Annotated[int, Meta(ge=0)]
    until_ns: Annotated[int, Meta(ge=1)]
    amount_nano: Annotated[int, Meta(ge=-_MOST_NANO, le=_MOST_NANO)]
    before_nano: Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]


def reconcile_post(connection: Connection, payload: dict[str, Any], clock: Clock) -> Outcome:
    """Post it, once for a file. Raises CallerError."""
    try:
        asked = msgspec.convert(payload, Asked)
    except msgspec.ValidationError as error:
        raise bad_request(f"This cannot be posted: {error}.") from None
    if asked.currency not in CURRENCIES:
        raise bad_request(f"'currency' must be one of {', '.join(CURRENCIES)}.", "currency")
    if not asked.since_ns < asked.until_ns <= clock.now_ns() - limits.RERATED_AFTER_S * NS_PER_S:
        raise bad_request(
            f"The period must have ended {limits.RERATED_AFTER_S} seconds ago, so that all of it is posted.", "until"
        )
    adjustment = Adjustment(*msgspec.structs.astuple(asked))
    posted = post_adjustment(connection, adjustment, why_of(payload, needed=True), clock)
    return Outcome({"batch": posted.batch_id, "posted_before": posted.again})
