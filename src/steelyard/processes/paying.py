"""Money that leaves a purse while requests run: set aside at the teller first, so that no request is granted it too.

A credit limit that is lowered is such money: what only the old one covers is granted to nobody from then on.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from steelyard.kernel.errors import CallerError, unavailable
from steelyard.ledger.moves import Need, Source, refuse_short
from steelyard.ledger.teller import Teller
from steelyard.processes.lending import Lending
from steelyard.processes.outcome import Outcome
from steelyard.processes.posting_loop import PostingLoop

_LIMIT = "wallet.limit"
PAYING = frozenset({"wallet.refund", "wallet.transfer", "wallet.adjust", "ledger.reverse", _LIMIT})
"""Commands that may take money out of a purse, or its credit."""
OWNER = "cashier"
_numbers = itertools.count(1)
Execute = Callable[[str, dict[str, Any]], Awaitable[Outcome]]


async def pay(lending: Lending, posting: PostingLoop, op: str, payload: dict[str, Any], execute: Execute) -> Outcome:
    """Have the command carried out by `execute`, with what it takes set aside. CallerError 409 when it is not there.

    The purses of the outcome must be taken over in the same turn of the loop.
    """
    if op == _LIMIT:
        return await _set_limit(lending, posting, payload, execute)
    await lending.recall_all()
    await posting.free_up()
    needs = (await execute("money.needs", {"op": op, "payload": payload})).reply
    with set_aside(lending.teller, needs):
        return await execute(op, payload)


async def _set_limit(lending: Lending, posting: PostingLoop, payload: dict[str, Any], execute: Execute) -> Outcome:
    """Have a credit limit set; a lower one binds new holds before it is written, so that none is above what is booked.

    Raises CallerError 503 while a worker has not given its lease under the old limit back. When the books cannot say
    whether it was written, the lower one binds until they can. The purses of the outcome must be taken over in the same
    turn of the loop.
    """
    teller = lending.teller
    tenant_id, limit_nano = (await execute("limit.needs", payload)).reply
    if limit_nano >= teller.purse(tenant_id).limit_nano:
        return await execute(_LIMIT, payload)
    certain, uncap = False, partial(teller.uncap, tenant_id, limit_nano)
    teller.cap(tenant_id, limit_nano)
    try:
        if not await lending.recall(tenant_id):
            raise unavailable("leases_out", "A worker still holds money under the old limit. Nothing was changed.")
        outcome = await execute(_LIMIT, payload)
        certain = True
    except CallerError as error:
        certain = error.code == "leases_out" or error.status != 503
        raise
    finally:
        if certain:
            uncap()
        else:
            posting.when_certain(uncap)
    return outcome


@contextmanager
def set_aside(teller: Teller, needs: Sequence[Need]) -> Iterator[None]:
    """Hold what is needed; given back at the end, when it was taken or not."""
    holds: list[bytes] = []
    try:
        for need in needs:
            refuse_short(need, _room(teller, need))
            holds.append(next(_numbers).to_bytes(16, "big"))
            teller.hold(holds[-1], need.tenant_id, need.amount_nano, need.amount_nano, OWNER)
        yield
    finally:
        for request_id in holds:
            teller.release(request_id)


def _room(teller: Teller, need: Need) -> int:
    match need.source:
        case Source.WALLET:
            return teller.payable(need.tenant_id)
        case Source.CREDIT:
            return teller.collectable(need.tenant_id)
        case Source.GRANT:
            return max(0, teller.available(need.tenant_id))
