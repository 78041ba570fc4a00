"""The second look at a hold that wallet and sub-limits do not cover at once: what ends makes room, so it is waited for.

Owns the order (settle what has finished, call leases back, wait) and its bound. The teller decides what is given.
"""

import asyncio
from collections.abc import Callable

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, unavailable
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.processes.lending import Lending
from steelyard.processes.posting_loop import PostingLoop
from steelyard.processes.teller_server import Session


async def decide_hold(
    ask: HoldAsk, session: Session, posting: PostingLoop, lending: Lending, open_for_holds: Callable[[], bool]
) -> Granted:
    """Nobody is refused for money that others hold or have leased at the moment: most of it comes back.

    Raises the CallerError of a sub-limit that refuses, and 503 while the books cannot be written.
    """
    teller = lending.teller
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + limits.HELD_AWAITED_MS / 1000
    while True:
        if teller.may_grow(ask):
            await posting.free_up()
        if lending.leases.holders(ask.tenant_id):
            await lending.recall(ask.tenant_id)
        if not open_for_holds():
            raise unavailable("books_unavailable", "The books cannot be written at the moment, so nothing is served.")
        if ask.request_id not in session.undecided or not session.alive:
            return Granted(0)  # released, or its worker is gone
        try:
            granted = teller.grant(ask, session.series) or Granted(0)
        except CallerError:  # a worker that cannot be asked has a share of the limits: until it is settled or back
            if not lending.leases.holders(ask.tenant_id) or loop.time() > deadline_s:
                raise
            await asyncio.sleep(limits.SYNC_INTERVAL_MS / 1000)
            continue
        held_nano = teller.held(ask.tenant_id)
        if granted.amount_nano >= ask.floor_nano or not held_nano:
            return granted
        if loop.time() > deadline_s:
            return Granted(0, busy=teller.available(ask.tenant_id) + held_nano >= ask.floor_nano)
        await asyncio.sleep(limits.SYNC_INTERVAL_MS / 1000)
