"""Whoever runs the house: pays in for tenants and edits their limits, over a socket of his own, while customers are served.

What got no answer is asked again, top-ups under the same key, so it happens once.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from tests.simulator.actors import House
from tests.simulator.bounds import Bound
from tests.simulator.counted import Done
from tests.simulator.money import Money
from tests.simulator.world import Process

from steelyard.kernel.errors import CallerError, StartError
from steelyard.ledger.teller_client import TellerClient


class Desk:
    """One operator. `pending` counts what has not been confirmed."""

    def __init__(self, house: House) -> None:
        self.house, self.world = house, house.world
        self.process = Process(self.world, "desk", house.medium)
        self.client = TellerClient()
        self.pending = 0
        self._numbers = itertools.count(1)
        self.money = Money(self)
        self.process.start(self._main())

    async def _main(self) -> None:
        while True:
            try:
                await self.client.connect(self.house.data.socket, None)
                return
            except StartError:
                await self.client.close()

    def pay(self, tenant_id: int, nano: int) -> None:
        counted, done = self.house.oracle.counted, Done("topup", {tenant_id: nano})
        counted.sent(done.deltas)
        payload = {"tenant": f"t{tenant_id}", "amount": self.text(nano), "idempotency_key": self.next_key()}
        self.ask("wallet.topup", payload, lambda reply: counted.confirmed(reply["batch"], done, nano))

    def next_key(self) -> str:
        return f"k{next(self._numbers)}"

    @staticmethod
    def text(nano: int) -> str:
        return f"{'-' if nano < 0 else ''}{abs(nano) // 10**9}.{abs(nano) % 10**9:09d}"

    def limit(self, tenant_id: int, kind: str, amount: int | None) -> None:
        """Set the tenant's limit, or lift it. One edit of a tenant at a time."""
        bound = self.house.oracle.bounds.setdefault(tenant_id, Bound(kind))
        if bound.pending:
            return
        bound.sent(amount)
        whose: dict[str, Any] = self.world.random.choice(
            ({"tenant": f"t{tenant_id}"}, {"tenant": f"t{tenant_id}", "project": "default"}, {"key": tenant_id})
            if not bound.whose
            else (bound.whose,)
        )
        bound.whose = whose
        if amount is None:
            op, payload = "limit.lift", whose
        elif kind == "budget":
            op, payload = "limit.set", whose | {"budget": self.text(amount), "every": "day", "zone": "Asia/Shanghai"}
        else:
            op, payload = "limit.set", whose | {kind: amount}
        self.ask(op, payload, lambda _: bound.confirmed(amount, self.world.now_ns))

    def ask(
        self,
        op: str,
        payload: dict[str, Any],
        confirmed: Callable[[Any], None],
        refused: Callable[[str], None] = lambda code: None,
        may: frozenset[str] = frozenset(),
    ) -> None:
        """Until there is an answer. `may`: the codes with which it may be refused."""
        self.pending += 1
        self.process.start(self._until_answered(op, payload, confirmed, refused, may))

    async def _until_answered(
        self,
        op: str,
        payload: dict[str, Any],
        confirmed: Callable[[Any], None],
        refused: Callable[[str], None],
        may: frozenset[str],
    ) -> None:
        while True:
            try:
                reply = await self.client.command(op, payload)
                break
            except CallerError as error:
                if error.code in may:
                    self.pending -= 1
                    refused(error.code)
                    return
                if error.status != 503:
                    self.house.oracle.fault(f"{op} {payload}: {error}")
                    return
                await asyncio.sleep(0.05)
        self.pending -= 1
        confirmed(reply)
