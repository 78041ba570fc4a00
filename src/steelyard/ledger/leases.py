"""Leases: money of a large wallet that a worker may hold out of by itself, without asking for each request.

Owns both ends: `Leases` beside the teller, which sets the money aside for one journal series, and `Pools` in the
worker, which gives it to requests. Pure: no I/O, time comes in as whole seconds. Keeps I7: what the teller has lent is
what pools have free plus what their requests hold, and a lease has one holder, whose name carries the epoch.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from steelyard.kernel import limits
from steelyard.kernel.records import HoldAsk, Use

if TYPE_CHECKING:  # a worker needs only the other end
    from steelyard.ledger.teller import Teller


class Told(Protocol):
    """A hold as its worker tells it (`wire.Held`)."""

    @property
    def request_id(self) -> bytes: ...
    @property
    def amount_nano(self) -> int: ...
    @property
    def use(self) -> Use | None: ...


class _Lease:
    """`settled`: requests that ended since the lease was called back, None while it is not."""

    __slots__ = ("amount_nano", "settled")

    def __init__(self) -> None:
        self.amount_nano = 0
        self.settled: set[bytes] | None = None


class Leases:
    """The teller's end. Every nano of a lease is set aside in the teller until it comes back or is charged."""

    def __init__(self, teller: "Teller") -> None:
        self._teller = teller
        self._leases: dict[int, dict[str, _Lease]] = {}  # tenant → series → lease

    def tenants(self) -> list[int]:
        """Whose money is lent."""
        return list(self._leases)

    def holders(self, tenant_id: int) -> list[str]:
        """The series that have a lease of the tenant's money."""
        return list(self._leases.get(tenant_id, ()))

    def amount(self, tenant_id: int, series: str) -> int:
        """What is set aside for the series; 0 without a lease."""
        lease = self._leases.get(tenant_id, {}).get(series)
        return lease.amount_nano if lease else 0

    def fit(self, tenant_id: int) -> bool:
        """Whether money may be lent at all: sub-limits and grants that expire are decided request by request, and holds
        that are more than the wallet has need every nano counted."""
        teller = self._teller
        return not teller.limited(tenant_id) and not teller.purse(tenant_id).grants and teller.available(tenant_id) >= 0

    def lend(self, tenant_id: int, series: str, worst_nano: int) -> int:
        """Set money aside for requests whose worst case is about so much. Returns how much; 0 when it is not worth it.

        Only money of the wallet is lent, neither grants nor credit.
        """
        teller = self._teller
        free_nano = min(teller.available(tenant_id), teller.purse(tenant_id).wallet_nano - teller.held(tenant_id))
        called = any(lease.settled is not None for lease in self._leases.get(tenant_id, {}).values())
        if called or worst_nano < 1 or not self.fit(tenant_id):
            return 0
        if free_nano < worst_nano * limits.LEASE_WALLET_WORST_CASES_MIN:
            return 0
        amount_nano = min(free_nano // limits.LEASE_WALLET_PARTS, worst_nano * limits.LEASE_WORST_CASES_MAX)
        self._leases.setdefault(tenant_id, {}).setdefault(series, _Lease()).amount_nano += amount_nano
        teller.set_aside(tenant_id, amount_nano)
        return amount_nano

    def settle(self, tenant_id: int, series: str, request_id: bytes, hold_nano: int) -> bool:
        """A request that held out of the lease has ended. False when there is no such lease: it was dissolved."""
        lease = self._leases.get(tenant_id, {}).get(series)
        if lease is None or self._teller.find(request_id) is not None:
            return False
        self._take(tenant_id, series, lease, hold_nano)
        if lease.settled is not None:
            lease.settled.add(request_id)
        return True

    def give_back(self, tenant_id: int, series: str, amount_nano: int) -> None:
        """The worker has no use for so much of it."""
        lease = self._leases.get(tenant_id, {}).get(series)
        if lease is not None and amount_nano > 0:
            self._take(tenant_id, series, lease, amount_nano)

    def call_back(self, tenant_id: int) -> list[str]:
        """From now on nothing is lent; returns the series that are to dissolve their leases."""
        of_tenant = self._leases.get(tenant_id, {})
        for lease in of_tenant.values():
            if lease.settled is None:
                lease.settled = set()
        return list(of_tenant)

    def dissolve(self, tenant_id: int, series: str, told: Iterable[Told]) -> None:
        """The lease ends; the requests that its worker told hold their money one by one from now on."""
        lease = self._leases.get(tenant_id, {}).get(series)
        if lease is None:
            return
        settled = lease.settled or set()
        self._end(tenant_id, series, lease)
        for one in told:
            if one.request_id not in settled:
                self._teller.hold(one.request_id, tenant_id, one.amount_nano, 0, series, one.use)

    def drop(self, series: str) -> None:
        """The series has no leases any more: its worker tells all its holds, or is dead and settled."""
        for tenant_id, of_tenant in list(self._leases.items()):
            lease = of_tenant.get(series)
            if lease is not None:
                self._end(tenant_id, series, lease)

    def complaints(self, alive: Iterable[str]) -> list[str]:
        """Where I7 does not hold, in words. `alive`: the series that may have leases."""
        found: list[str] = []
        known = set(alive)
        for tenant_id in self._leases.keys() | self._teller.aside().keys():
            of_tenant = self._leases.get(tenant_id, {})
            if sum(lease.amount_nano for lease in of_tenant.values()) != self._teller.aside().get(tenant_id, 0):
                found.append(f"I7: tenant {tenant_id}: what is set aside is not the sum of the leases")
            found += [f"I7: tenant {tenant_id}: nobody has the lease of {one}" for one in of_tenant.keys() - known]
        return found

    def _end(self, tenant_id: int, series: str, lease: _Lease) -> None:
        lease.settled = None
        self._take(tenant_id, series, lease, lease.amount_nano)

    def _take(self, tenant_id: int, series: str, lease: _Lease, amount_nano: int) -> None:
        taken = min(amount_nano, lease.amount_nano)
        lease.amount_nano -= taken
        self._teller.set_aside(tenant_id, -taken)
        if not lease.amount_nano and lease.settled is None:  # one that is called back waits for its worker's word
            of_tenant = self._leases[tenant_id]
            del of_tenant[series]
            if not of_tenant:
                del self._leases[tenant_id]


DRY, LOW, LASTING = range(3)


class _Pool:
    """One tenant's money in a worker."""

    __slots__ = ("asked", "free_nano", "holds", "low_nano", "quiet_until_s", "round_trips", "second", "used_s")

    def __init__(self) -> None:
        self.free_nano = 0
        self.low_nano = 0  # below it more is asked for
        self.holds: set[bytes] = set()
        self.asked = False
        self.quiet_until_s = 0
        self.second = 0
        self.round_trips = 0  # in this second
        self.used_s = 0


class Pools:
    """The worker's end: what it may give by itself, tenant by tenant."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}

    def free(self, tenant_id: int) -> int:
        pool = self._pools.get(tenant_id)
        return pool.free_nano if pool else 0

    def draw(self, ask: HoldAsk, now_s: int) -> int:
        """Hold what is asked out of the lease. DRY: it does not cover all of that; LOW: perhaps it `wants` more now."""
        pool = self._pools.get(ask.tenant_id)
        want_nano = ask.want_nano
        if pool is None or pool.free_nano < want_nano or not want_nano:
            return DRY
        pool.free_nano = free_nano = pool.free_nano - want_nano
        pool.holds.add(ask.request_id)
        pool.used_s = now_s
        return LOW if free_nano < pool.low_nano else LASTING

    def wants(self, ask: HoldAsk, now_s: int, *, round_trip: bool) -> bool:
        """Whether to ask for a lease, or for more of it, now that this hold was given."""
        pool = self._pools.get(ask.tenant_id)
        if pool is None:
            pool = self._pools[ask.tenant_id] = _Pool()
        if round_trip:
            if pool.second != now_s:
                pool.second, pool.round_trips = now_s, 0
            pool.round_trips += 1
            pool.used_s = now_s
        busy = pool.round_trips >= limits.LEASE_ROUND_TRIPS_MIN if round_trip else pool.free_nano < pool.low_nano
        if not busy or pool.asked or now_s < pool.quiet_until_s:
            return False
        pool.asked = True
        return True

    def lend(self, tenant_id: int, amount_nano: int, now_s: int) -> int:
        """The answer to what was asked for. Returns what nobody here asked for, to be given back."""
        pool = self._pools.get(tenant_id)
        if pool is None or not pool.asked:
            return amount_nano
        pool.asked = False
        pool.round_trips = 0
        pool.free_nano += amount_nano
        pool.low_nano = amount_nano // 2
        pool.used_s = now_s
        if not amount_nano:
            pool.quiet_until_s = now_s + limits.LEASE_QUIET_S
        return 0

    def release(self, request_id: bytes, tenant_id: int, amount_nano: int) -> bool:
        """A hold came to nothing: back into the lease it was given out of. False when it was given by the books."""
        pool = self._pools.get(tenant_id)
        if pool is None or request_id not in pool.holds:
            return False
        pool.holds.discard(request_id)
        pool.free_nano += amount_nano
        return True

    def settled(self, request_id: bytes, tenant_id: int) -> None:
        """The books have settled the request; the rest of its hold is theirs again."""
        pool = self._pools.get(tenant_id)
        if pool is not None:
            pool.holds.discard(request_id)

    def dissolve(self, tenant_id: int, now_s: int) -> frozenset[bytes]:
        """The books call the lease back. Returns the requests that held out of it."""
        pool = self._pools.get(tenant_id)
        if pool is None:
            return frozenset()
        holds, pool.holds = frozenset(pool.holds), set()
        pool.free_nano, pool.low_nano = 0, 0
        pool.quiet_until_s = now_s + limits.LEASE_QUIET_S
        return holds

    def void(self) -> None:
        """The books do not know of any lease any more; they are told all holds."""
        self._pools.clear()

    def idle(self, now_s: int) -> Iterator[tuple[int, int]]:
        """Tenants nobody asked for lately, and what goes back of their leases."""
        for tenant_id, pool in list(self._pools.items()):
            if now_s - pool.used_s < limits.LEASE_IDLE_S:
                continue
            if pool.free_nano:
                yield tenant_id, pool.free_nano
                pool.free_nano, pool.low_nano = 0, 0
            elif not pool.holds and not pool.asked:
                del self._pools[tenant_id]
