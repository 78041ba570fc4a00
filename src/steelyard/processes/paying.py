"""Money that leaves a purse while requests run: set aside at the teller first, so that no request is granted it too."""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steelyard.ledger.moves import Need, Source, refuse_short
from steelyard.ledger.teller import Teller
from steelyard.processes.outcome import Outcome

PAYING = frozenset({"wallet.refund", "wallet.transfer", "wallet.adjust", "ledger.reverse"})
"""Commands that may take money out of a purse."""
OWNER = "cashier"
_numbers = itertools.count(1)
Execute = Callable[[str, dict[str, Any]], Awaitable[Outcome]]


async def pay(teller: Teller, op: str, payload: dict[str, Any], execute: Execute) -> Outcome:
    """Have the command carried out by `execute`, with what it takes set aside. CallerError 409 when it is not there.

    The purses of the outcome must be taken over in the same turn of the loop.
    """
    needs = (await execute("money.needs", {"op": op, "payload": payload})).reply
    with set_aside(teller, needs):
        return await execute(op, payload)


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
