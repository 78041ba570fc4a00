"""Leases: money of a large wallet that a worker may hold out of by itself, without asking for each request.

Owns both ends: `Leases` beside the teller, which sets the money aside for one journal series, and `Pools` in the
worker, which gives it to requests. Pure: no I/O, time comes in as whole seconds. Keeps I7: what the teller has lent is
what pools have free plus what their requests hold, and a lease has one holder, whose name carries the epoch. Where
limits per minute bound a key, a lease has its share of them (ledger.shares), and holds for no other key.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from steelyard.kernel import limits
from steelyard.kernel.left import Left
from steelyard.kernel.records import HoldAsk, Use
from steelyard.ledger.shares import Room, Share, Shares
from steelyard.ledger.sublimits import by_subject

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


class Lent(NamedTuple):
    """More of a tenant's money; `share` where limits per minute bound whoever asked for it."""

    amount_nano: int = 0
    share: Share | None = None


class _Lease:
    """`settled`: requests that ended since the lease was called back, None while it is not. `bound`: its worker holds
    out of it for the keys of its `shares` only."""

    __slots__ = ("amount_nano", "bound", "settled", "shares")

    def __init__(self) -> None:
        self.amount_nano = 0
        self.settled: set[bytes] | None = None
        self.bound = False
        self.shares = Shares()


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
        """Whether money may be lent at all: grants that expire are decided request by request, and holds that are more
        than the wallet has need every nano counted. No lease may go past limits."""
        teller = self._teller
        if teller.limited(tenant_id) and not all(one.bound for one in self._leases.get(tenant_id, {}).values()):
            return False
        return not teller.purse(tenant_id).grants and teller.available(tenant_id) >= 0

    def lend(self, tenant_id: int, series: str, worst_nano: int, use: Use | None = None) -> Lent:
        """Set money aside for requests whose worst case is about so much, nothing when it is not worth it; `use` is
        what one of them takes of limits.

        Only money of the wallet is lent, neither grants nor credit, and of limits only those per minute.
        """
        teller = self._teller
        free_nano = min(teller.available(tenant_id), teller.purse(tenant_id).wallet_nano - teller.held(tenant_id))
        called = any(lease.settled is not None for lease in self._leases.get(tenant_id, {}).values())
        if called or worst_nano < 1 or not self.fit(tenant_id):
            return Lent()
        if free_nano < worst_nano * limits.LEASE_WALLET_WORST_CASES_MIN:
            return Lent()
        share = None
        if teller.limited(tenant_id) and (share := teller.lendable(tenant_id, use)) is None:
            return Lent()
        amount_nano = min(free_nano // limits.LEASE_WALLET_PARTS, worst_nano * limits.LEASE_WORST_CASES_MAX)
        lease = self._leases.setdefault(tenant_id, {}).setdefault(series, _Lease())
        lease.amount_nano += amount_nano
        teller.set_aside(tenant_id, amount_nano)
        if share is not None:
            lease.bound = True
            lease.shares.add(share)
            teller.set_share_aside(tenant_id, share)
        return Lent(amount_nano, share)

    def settle(self, tenant_id: int, series: str, request_id: bytes, hold_nano: int, used: Use | None = None) -> bool:
        """A request that held out of the lease has ended; `used` counts with its limits from now on. False when there
        is no such lease: it was dissolved."""
        lease = self._leases.get(tenant_id, {}).get(series)
        if lease is None or self._teller.find(request_id) is not None:
            return False
        if used is not None and lease.bound:
            self._take_share(tenant_id, lease, Share(used.project_id, used.key_id, 1, used.tokens))
        self._take(tenant_id, series, lease, hold_nano)
        if lease.settled is not None:
            lease.settled.add(request_id)
        return True

    def give_back(self, tenant_id: int, series: str, amount_nano: int, shares: Sequence[Share] = ()) -> None:
        """The worker has no use for so much of it."""
        lease = self._leases.get(tenant_id, {}).get(series)
        if lease is not None:
            for share in shares:
                self._take_share(tenant_id, lease, share)
            self._take(tenant_id, series, lease, max(0, amount_nano))

    def call_back(self, tenant_id: int) -> list[str]:
        """From now on nothing is lent; returns the series that are to dissolve their leases, each once: a second word
        would end the next lease, which its worker may have by then."""
        told = {series: lease for series, lease in self._leases.get(tenant_id, {}).items() if lease.settled is None}
        for lease in told.values():
            lease.settled = set()
        return list(told)

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
        lent = [
            (tenant_id, share)
            for tenant_id, of_tenant in self._leases.items()
            for lease in of_tenant.values()
            for share in lease.shares
        ]
        if self._teller.shares_aside() != by_subject(lent):
            found.append("I7: what is set aside of limits is not the sum of the leases' shares")
        return found

    def _end(self, tenant_id: int, series: str, lease: _Lease) -> None:
        lease.settled = None
        for share in list(lease.shares):
            self._take_share(tenant_id, lease, share)
        self._take(tenant_id, series, lease, lease.amount_nano)

    def _take_share(self, tenant_id: int, lease: _Lease, share: Share) -> None:
        taken = lease.shares.take(share.project_id, share.key_id, share.requests, share.tokens)
        if taken is not None:
            self._teller.set_share_aside(tenant_id, taken)

    def _take(self, tenant_id: int, series: str, lease: _Lease, amount_nano: int) -> None:
        taken = min(amount_nano, lease.amount_nano)
        lease.amount_nano -= taken
        self._teller.set_aside(tenant_id, -taken)
        if not lease.amount_nano and not lease.shares and lease.settled is None:  # else its worker has a word to say
            of_tenant = self._leases[tenant_id]
            del of_tenant[series]
            if not of_tenant:
                del self._leases[tenant_id]


DRY, LOW, LASTING = range(3)


class _Pool:
    """One tenant's money in a worker."""

    __slots__ = ("asked", "free_nano", "low_nano", "quiet_until_s", "rooms", "round_trips", "second", "used_s")

    def __init__(self) -> None:
        self.free_nano = 0
        self.low_nano = 0  # below it more is asked for
        self.rooms: dict[tuple[int, int], Room] = {}  # where there are any, nobody else holds out of it
        self.asked = False
        self.quiet_until_s = 0
        self.second = 0
        self.round_trips = 0  # in this second
        self.used_s = 0

    def low(self, ask: HoldAsk) -> bool:
        room = self.rooms.get((ask.project_id, ask.key_id)) if self.rooms else None
        return self.free_nano < self.low_nano or (room is not None and room.low)


class Pools:
    """The worker's end: what it may give by itself, tenant by tenant."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}
        self.holds: dict[bytes, HoldAsk] = {}
        """What was given out of leases, as it was asked for."""
        self.bound = False
        """Whether any lease here may have a share of limits."""

    def free(self, tenant_id: int) -> int:
        pool = self._pools.get(tenant_id)
        return pool.free_nano if pool else 0

    def draw(self, ask: HoldAsk, now_s: int) -> int:
        """Hold what is asked out of the lease. DRY: it does not cover all of that; LOW: perhaps it `wants` more now."""
        pool = self._pools.get(ask.tenant_id)
        want_nano = ask.want_nano
        if pool is None or pool.free_nano < want_nano or not want_nano:
            return DRY
        if pool.rooms:
            room = pool.rooms.get((ask.project_id, ask.key_id))
            if room is None or not room.draw(ask):
                return DRY
        pool.free_nano = free_nano = pool.free_nano - want_nano
        self.holds[ask.request_id] = ask
        pool.used_s = now_s
        return LOW if free_nano < pool.low_nano or (pool.rooms and pool.low(ask)) else LASTING

    def left(self, ask: HoldAsk) -> Left | None:
        """What limits per minute leave beside a hold that was just drawn; None where there are none."""
        pool = self._pools[ask.tenant_id]
        return pool.rooms[ask.project_id, ask.key_id].left() if pool.rooms else None

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
        busy = pool.round_trips >= limits.LEASE_ROUND_TRIPS_MIN if round_trip else pool.low(ask)
        if not busy or pool.asked or now_s < pool.quiet_until_s:
            return False
        pool.asked = True
        return True

    def lend(self, tenant_id: int, amount_nano: int, now_s: int, share: Share | None = None) -> bool:
        """The answer to what was asked for. False: nobody here asked for it, it is to be given back."""
        pool = self._pools.get(tenant_id)
        if pool is None or not pool.asked:
            return False
        pool.asked = False
        pool.round_trips = 0
        pool.free_nano += amount_nano
        pool.low_nano = amount_nano // 2
        pool.used_s = now_s
        if not amount_nano:
            pool.quiet_until_s = now_s + limits.LEASE_QUIET_S
        if share is not None:
            pool.rooms.setdefault((share.project_id, share.key_id), Room()).add(share)
            self.bound = True
        return True

    def release(self, request_id: bytes) -> bool:
        """A hold came to nothing: back into the lease it was given out of. False when it was given by the books."""
        ask = self.holds.pop(request_id, None)
        if ask is None:
            return False
        pool = self._pools[ask.tenant_id]
        pool.free_nano += ask.want_nano
        if pool.rooms:
            pool.rooms[ask.project_id, ask.key_id].undo(ask)
        return True

    def settled(self, told: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """The books have settled requests, each with the tokens it used: the rest of its hold is theirs again, what it
        did not use of its tokens is ours. Returns those that held out of no lease."""
        others = []
        for request_id, used_tokens in told:
            ask = self.holds.pop(request_id, None)
            if ask is None:
                others.append(request_id)
            elif self.bound and (rooms := self._pools[ask.tenant_id].rooms):
                rooms[ask.project_id, ask.key_id].ended(ask, used_tokens)
        return others

    def dissolve(self, tenant_id: int, now_s: int) -> list[HoldAsk]:
        """The books call the lease back. Returns what is held out of it."""
        pool = self._pools.get(tenant_id)
        if pool is None:
            return []
        pool.free_nano, pool.low_nano, pool.rooms = 0, 0, {}
        pool.quiet_until_s = now_s + limits.LEASE_QUIET_S
        return [self.holds.pop(one.request_id) for one in list(self.holds.values()) if one.tenant_id == tenant_id]

    def void(self) -> list[HoldAsk]:
        """The books do not know of any lease any more. Returns what is held: they are to be told."""
        held, self.holds = list(self.holds.values()), {}
        self._pools.clear()
        self.bound = False
        return held

    def idle(self, now_s: int) -> Iterator[tuple[int, int, tuple[Share, ...]]]:
        """Tenants nobody asked for lately, and what goes back of their leases."""
        idle = [one for one in self._pools.items() if now_s - one[1].used_s >= limits.LEASE_IDLE_S]
        holding = {one.tenant_id for one in self.holds.values()} if idle else set()
        for tenant_id, pool in idle:
            shares = tuple(share for key, room in pool.rooms.items() if (share := room.empty(*key)) is not None)
            if pool.free_nano or shares:
                yield tenant_id, pool.free_nano, shares
                pool.free_nano, pool.low_nano = 0, 0
            elif tenant_id not in holding and not pool.asked:
                del self._pools[tenant_id]
