"""The teller: wallets and holds in memory, the one authority that sets money aside.

Pure: no I/O, no clock. Keeps I4 in every step: balance = available + held, available ≥ 0, held = sum of open holds.
A charge never takes more than its hold, and never more than the wallet has; the rest is our overrun (ledger.posting).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from steelyard.kernel.errors import BooksError


class Hold(NamedTuple):
    """Money set aside for one request; `owner` is the journal series of the worker that asked."""

    tenant_id: int
    amount_nano: int
    owner: str


class Teller:
    """All wallets of one node. Times out nothing by itself: a hold ends by settle, release or its owner's death."""

    def __init__(self, balances: Mapping[int, int] | None = None) -> None:
        self._balance: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._holds: dict[bytes, Hold] = {}
        self._owned: dict[str, set[bytes]] = {}
        for tenant_id, balance in (balances or {}).items():
            self.open_wallet(tenant_id, balance)

    def open_wallet(self, tenant_id: int, balance_nano: int = 0) -> None:
        """A wallet with its balance from the accounts. One that is open already is left alone."""
        if balance_nano < 0:
            raise BooksError(f"the wallet of tenant {tenant_id} is below zero")
        self._balance.setdefault(tenant_id, balance_nano)
        self._held.setdefault(tenant_id, 0)

    def balance(self, tenant_id: int) -> int:
        return self._balance.get(tenant_id, 0)

    def held(self, tenant_id: int) -> int:
        return self._held.get(tenant_id, 0)

    def available(self, tenant_id: int) -> int:
        return self._balance.get(tenant_id, 0) - self._held.get(tenant_id, 0)

    def find(self, request_id: bytes) -> Hold | None:
        return self._holds.get(request_id)

    def owned(self, owner: str) -> frozenset[bytes]:
        """The requests this owner has holds for."""
        return frozenset(self._owned.get(owner, ()))

    @property
    def open_holds(self) -> int:
        return len(self._holds)

    def held_by_tenant(self) -> Iterator[tuple[int, int]]:
        return iter(self._held.items())

    def hold(self, request_id: bytes, tenant_id: int, want_nano: int, floor_nano: int, owner: str) -> int:
        """Set aside `want`, or what is available if that reaches `floor`. Returns the amount; 0 when refused.

        Asking again for the same request answers the same amount and sets nothing more aside.
        """
        if want_nano < 0 or floor_nano < 0 or floor_nano > want_nano:
            raise BooksError("a hold needs 0 ≤ floor ≤ want")
        known = self._holds.get(request_id)
        if known is not None:
            return known.amount_nano if known.tenant_id == tenant_id else 0
        balance = self._balance.get(tenant_id)
        if balance is None:
            return 0
        granted = min(want_nano, balance - self._held[tenant_id])
        if granted < floor_nano:
            return 0
        self._holds[request_id] = Hold(tenant_id, granted, owner)
        self._held[tenant_id] += granted
        owned = self._owned.get(owner)
        if owned is None:
            self._owned[owner] = {request_id}
        else:
            owned.add(request_id)
        return granted

    def release(self, request_id: bytes) -> int:
        """Give a hold back whole. Returns its amount; 0 when there was none."""
        hold = self._holds.pop(request_id, None)
        if hold is None:
            return 0
        self._held[hold.tenant_id] -= hold.amount_nano
        owned = self._owned[hold.owner]
        owned.discard(request_id)
        if not owned:
            del self._owned[hold.owner]
        return hold.amount_nano

    def settle(self, request_id: bytes, tenant_id: int, hold_nano: int, charge_nano: int) -> int:
        """End the hold and take the charge, at most `hold_nano` and at most the wallet. Returns what was taken."""
        if charge_nano < 0:
            raise BooksError("a charge is never negative")
        self.release(request_id)
        taken = min(charge_nano, hold_nano, self._balance.get(tenant_id, 0))
        if taken:
            self._balance[tenant_id] -= taken
            self._cover(tenant_id)
        return taken

    def topup(self, tenant_id: int, amount_nano: int) -> int:
        """Add money. Returns the new balance."""
        if amount_nano < 0:
            raise BooksError("a top-up is never negative")
        self.open_wallet(tenant_id)
        self._balance[tenant_id] += amount_nano
        return self._balance[tenant_id]

    def correct(self, balances: Mapping[int, int]) -> None:
        """Take the balances from the accounts, after a commit whose outcome was not known."""
        for tenant_id, balance in balances.items():
            self.open_wallet(tenant_id)
            self._balance[tenant_id] = balance
            self._cover(tenant_id)

    def owner_gone(self, owner: str) -> int:
        """Give back every hold of an owner that died and whose journal is settled. Returns how many there were."""
        gone = self._owned.get(owner, set()).copy()
        for request_id in gone:
            self.release(request_id)
        return len(gone)

    def _cover(self, tenant_id: int) -> None:
        """Cut holds that the wallet no longer covers: only after a charge whose hold this teller did not know."""
        short = self._held[tenant_id] - self._balance[tenant_id]
        if short <= 0:
            return
        for request_id, hold in list(self._holds.items()):
            if hold.tenant_id == tenant_id and short > 0:
                cut = min(short, hold.amount_nano)
                self._holds[request_id] = hold._replace(amount_nano=hold.amount_nano - cut)
                self._held[tenant_id] -= cut
                short -= cut

    def complaints(self, balances: Mapping[int, int] | None = None) -> list[str]:
        """Where I4 does not hold, in words; empty when all is well. `balances` are the accounts', if at hand."""
        found: list[str] = []
        held: dict[int, int] = {}
        for hold in self._holds.values():
            held[hold.tenant_id] = held.get(hold.tenant_id, 0) + hold.amount_nano
        for tenant_id, balance in self._balance.items():
            if held.get(tenant_id, 0) != self._held[tenant_id]:
                found.append(f"tenant {tenant_id}: held is not the sum of open holds")
            if self.available(tenant_id) < 0:
                found.append(f"tenant {tenant_id}: available is below zero")
            if balances is not None and balances.get(tenant_id, 0) != balance:
                found.append(f"tenant {tenant_id}: the teller's balance is not the account's")
        return found
