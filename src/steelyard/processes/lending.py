"""Who may lend and who calls back: the books' side of leases, between the teller's sessions and `ledger.leases`.

Owns the messages and the bounded wait for leases that are called back. How much is lent is decided in `ledger.leases`.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol

from steelyard.kernel import limits
from steelyard.ledger import wire
from steelyard.ledger.leases import Leases, Lent
from steelyard.ledger.teller import Teller


class Seat(Protocol):
    """A worker's session."""

    def send(self, number: int, op: str, payload: object) -> None: ...


class Lending:
    """One per books process."""

    def __init__(self, teller: Teller, seats: Mapping[str, Seat]) -> None:
        self._seats = seats
        self._moved = asyncio.Event()
        self.teller = teller
        self.leases = Leases(teller)

    def asked(self, series: str, ask: wire.LeaseAsk, *, open_for_holds: bool) -> None:
        """A worker would like to hold by itself. It always gets an answer, which may be 0."""
        seat = self._seats.get(series)
        if seat is not None:
            lent = self.leases.lend(ask.tenant_id, series, ask.worst_nano, ask.use) if open_for_holds else Lent()
            seat.send(wire.NOTICE, "lease", wire.Lease(ask.tenant_id, *lent))

    def returned(self, series: str, told: wire.Returned) -> None:
        """Money of a lease came back, or all of it."""
        if told.holds is None:
            self.leases.give_back(told.tenant_id, series, told.amount_nano, told.shares)
        else:
            self.leases.dissolve(told.tenant_id, series, told.holds)
            self._moved.set()

    def gone(self, series: str) -> None:
        """The worker is dead and settled, or tells all its holds anew."""
        self.leases.drop(series)
        self._moved.set()

    async def recall(self, tenant_id: int) -> bool:
        """Have all leases of the tenant dissolved, and return when those of connected workers are, or at the bound.

        Whether they are.
        """
        self.recall_soon(tenant_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.LEASE_RECALLED_MS / 1000):
                while any(series in self._seats for series in self.leases.holders(tenant_id)):
                    self._moved.clear()
                    await self._moved.wait()
        return not any(series in self._seats for series in self.leases.holders(tenant_id))

    async def recall_all(self) -> None:
        """Before money is paid out or corrected: all of it is to be counted."""
        for tenant_id in self.leases.tenants():
            await self.recall(tenant_id)

    def recall_unfit(self) -> None:
        """Balances were taken from the accounts: leases that would not be given now end."""
        for tenant_id in self.leases.tenants():
            if not self.leases.fit(tenant_id):
                self.recall_soon(tenant_id)

    def recall_soon(self, tenant_id: int) -> None:
        """Tell those who have leases of the tenant that they end."""
        for series in self.leases.call_back(tenant_id):
            seat = self._seats.get(series)
            if seat is not None:
                seat.send(wire.NOTICE, "recall", tenant_id)
