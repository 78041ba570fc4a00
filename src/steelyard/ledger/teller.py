"""The teller: purses and holds in memory, the one authority that sets money aside.

Pure: no I/O, no clock. Keeps I4 in every step: what may be used (wallet, grants, credit limit) = available + held,
available ≥ 0, held = sum of open holds. A charge never takes more than its hold, and never more than the purse has; the
rest is our overrun (ledger.posting). A grant that has expired funds no new hold, only those that were open before.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.records import Granted, HoldAsk, Use
from steelyard.ledger.gauges import Seed
from steelyard.ledger.part import money_for, tokens_within
from steelyard.ledger.purse import Purse, purse_of
from steelyard.ledger.shares import Share
from steelyard.ledger.sublimits import Subject, Sublimits, use_of


class Hold(NamedTuple):
    """Money set aside for one request; `owner` is the journal series of the worker that asked.

    `use` is what the request takes of sub-limits; None: nothing a sub-limit counts.
    """

    tenant_id: int
    amount_nano: int
    owner: str
    use: Use | None = None


class _Earlier(NamedTuple):
    """Holds that were open when a grant expired, and their sum: what is left of the grant is theirs alone."""

    ids: set[bytes]
    held_nano: int


class Teller:
    """All purses of one node. Times out nothing by itself: a hold ends by settle, release or its owner's death."""

    def __init__(self, balances: Mapping[int, int | Purse] | None = None) -> None:
        self._purses: dict[int, Purse] = {}
        self._usable: dict[int, int] = {}  # what all holds together may use
        self._held: dict[int, int] = {}
        self._promised: dict[int, int] = {}  # the greatest credit limit since nothing was held
        self._caps: dict[int, list[int]] = {}  # credit limits that are about to be lowered to these
        self._earlier: dict[int, _Earlier] = {}
        self._now_ns = 0
        self._next_expiry_ns = INT64_MAX
        self._holds: dict[bytes, Hold] = {}
        self._owned: dict[str, set[bytes]] = {}
        self._sublimits = Sublimits()
        self._aside: dict[int, int] = {}  # of what is held: leased out
        for tenant_id, balance in (balances or {}).items():
            self.open_wallet(tenant_id, balance)

    def open_wallet(self, tenant_id: int, balance: int | Purse = 0) -> None:
        """A purse as the accounts have it. One that is open already is left alone."""
        purse = purse_of(balance)
        if purse.wallet_nano < 0 and not isinstance(balance, Purse):
            raise BooksError(f"the wallet of tenant {tenant_id} is below zero")
        if tenant_id not in self._purses:
            self._held[tenant_id] = 0
            self._put(tenant_id, purse)

    def balance(self, tenant_id: int) -> int:
        """The wallet, without grants and credit."""
        return self.purse(tenant_id).wallet_nano

    def purse(self, tenant_id: int) -> Purse:
        return self._purses.get(tenant_id) or Purse(0)

    def held(self, tenant_id: int) -> int:
        return self._held.get(tenant_id, 0)

    def available(self, tenant_id: int) -> int:
        """What a new hold may get; below zero after a credit limit was lowered under what is used."""
        return self._usable.get(tenant_id, 0) - self._held.get(tenant_id, 0)

    def payable(self, tenant_id: int) -> int:
        """What of the wallet may be paid out: not held, no grant, no credit."""
        return max(0, min(self.balance(tenant_id), self.available(tenant_id) - self._limit(tenant_id)))

    def collectable(self, tenant_id: int) -> int:
        """What may be taken from the wallet, down to its credit limit: not held, no grant."""
        return max(0, min(self.balance(tenant_id) + self._limit(tenant_id), self.available(tenant_id)))

    def cap(self, tenant_id: int, limit_nano: int) -> None:
        """Give no new hold under more credit than this, until `uncap`; what is held stays."""
        self._caps.setdefault(tenant_id, []).append(limit_nano)
        self._recount(tenant_id)

    def uncap(self, tenant_id: int, limit_nano: int) -> None:
        """The end of a `cap`: the purse's own limit counts again."""
        caps = self._caps[tenant_id]
        caps.remove(limit_nano)
        if not caps:
            del self._caps[tenant_id]
        self._recount(tenant_id)

    def newest_ns(self, tenant_id: int) -> int:
        """When the newest request of the tenant that is held for was opened; 0 when there is none."""
        uses = [hold.use for hold in list(self._holds.values()) if hold.tenant_id == tenant_id]
        return max((use.opened_ns for use in uses if use is not None), default=0)

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

    def limited(self, tenant_id: int) -> bool:
        """Whether any sub-limit bounds requests of the tenant."""
        return self._sublimits.limited(tenant_id)

    def set_aside(self, tenant_id: int, amount_nano: int) -> None:
        """Hold money for nobody's request: a lease (ledger.leases). A negative amount gives it back."""
        self._aside[tenant_id] = self._aside.get(tenant_id, 0) + amount_nano
        if amount_nano >= 0:
            self._held[tenant_id] += amount_nano
        else:
            self._unhold(b"", tenant_id, -amount_nano)

    def aside(self) -> dict[int, int]:
        """Tenant → what is set aside for leases."""
        return {tenant_id: amount for tenant_id, amount in self._aside.items() if amount}

    def lendable(self, tenant_id: int, use: Use | None) -> Share | None:
        """A share of the tenant's limits that may be lent for requests like this one; None where none may."""
        share = None if use is None else self._sublimits.lendable(tenant_id, use)
        if share is None or use is None:
            return None
        return msgspec.structs.replace(share, left=self._sublimits.left(tenant_id, use, None))

    def set_share_aside(self, tenant_id: int, share: Share) -> None:
        """Lend a share of limits (ledger.shares). Negative figures give it back."""
        self._sublimits.set_aside(tenant_id, share)

    def shares_aside(self) -> dict[Subject, tuple[int, int]]:
        """Subject → requests and tokens of its limits that are lent."""
        return self._sublimits.aside()

    def limit(self, seed: Seed) -> None:
        """Set a sub-limit anew, or lift it. Requests that run count towards it from now on."""
        running = [(hold.tenant_id, hold.use, hold.amount_nano) for hold in self._holds.values() if hold.use]
        self._sublimits.put(seed, running)

    def limit_anew(self, seeds: Iterable[Seed]) -> None:
        """Take all sub-limits from the books, after a commit whose outcome was not known: what it posted counts."""
        self._sublimits = Sublimits(self._sublimits)
        for seed in seeds:
            self.limit(seed)

    def grant(self, ask: HoldAsk, owner: str, *, whole: bool = False) -> Granted | None:
        """Set aside what a request asks, or as much of it as wallet and sub-limits cover, or nothing at all.

        An amount below the floor: the wallet cannot. `whole`: all or None. Raises the CallerError of a sub-limit that
        refuses. Asking again answers the same.
        """
        known = self._holds.get(ask.request_id)
        if known is not None:
            amount = known.amount_nano if known.tenant_id == ask.tenant_id else 0
            tokens = known.use.tokens - ask.prompt_tokens if known.use else 0
            return Granted(amount, tokens // ask.sequences)
        room = self._sublimits.room(ask)
        available = self.available(ask.tenant_id)
        covered = min(room.money_nano, available)
        if whole and (room.refusal or covered < ask.want_nano or room.max_tokens < ask.max_tokens):
            return None
        if room.refusal is not None:
            raise room.refusal
        want = min(covered, money_for(ask, room.max_tokens))
        if want < ask.floor_nano:
            return Granted(0)
        tokens = min(room.max_tokens, tokens_within(ask, want))
        use = use_of(ask, tokens)
        return Granted(self.hold(ask.request_id, ask.tenant_id, want, ask.floor_nano, owner, use), tokens)

    def told(self, ask: HoldAsk, granted: Granted) -> Granted:
        """What was granted, with what is left beside it."""
        left = self._sublimits.left(ask.tenant_id, ask, max(0, self.available(ask.tenant_id)))
        return Granted(granted.amount_nano, granted.max_tokens, granted.lease, granted.busy, left)

    def may_grow(self, ask: HoldAsk) -> bool:
        """Whether settling what has just finished may leave more for this request."""
        short = self.available(ask.tenant_id) < ask.want_nano and self.held(ask.tenant_id) > 0
        return short or self._sublimits.room(ask).may_grow

    def hold(
        self, request_id: bytes, tenant_id: int, want_nano: int, floor_nano: int, owner: str, use: Use | None = None
    ) -> int:
        """Set aside `want`, or what is available if that reaches `floor`. Returns the amount; 0 when refused.

        Asking again for the same request answers the same amount and sets nothing more aside.
        """
        if want_nano < 0 or floor_nano < 0 or floor_nano > want_nano:
            raise BooksError("a hold needs 0 ≤ floor ≤ want")
        known = self._holds.get(request_id)
        if known is not None:
            return known.amount_nano if known.tenant_id == tenant_id else 0
        usable = self._usable.get(tenant_id)
        if usable is None:
            return 0
        granted = max(0, min(want_nano, usable - self._held[tenant_id]))
        if granted < floor_nano:
            return 0
        self._holds[request_id] = Hold(tenant_id, granted, owner, use)
        if use is not None:
            self._sublimits.take(tenant_id, use, granted)
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
        if hold.use is not None:
            self._sublimits.release(hold.tenant_id, hold.use, hold.amount_nano)
        self._unhold(request_id, hold.tenant_id, hold.amount_nano)
        owned = self._owned[hold.owner]
        owned.discard(request_id)
        if not owned:
            del self._owned[hold.owner]
        return hold.amount_nano

    def settle(
        self, request_id: bytes, tenant_id: int, hold_nano: int, charge_nano: int, used: Use | None = None
    ) -> int:
        """End the hold and take the charge, at most `hold_nano` and at most the purse. Returns what was taken.

        `used` is what sub-limits count of the request from now on.
        """
        if charge_nano < 0:
            raise BooksError("a charge is never negative")
        if used is not None:
            self._count_use(request_id, tenant_id, used, min(charge_nano, hold_nano))
        promised = self._promised.get(tenant_id, 0)
        self.release(request_id)
        purse = self._purses.get(tenant_id)
        if purse is None:
            return 0
        drawn = purse.draw(min(charge_nano, hold_nano), promised)
        taken = drawn.total_nano
        if taken:
            self._put(tenant_id, drawn.purse)
        return taken

    def _count_use(self, request_id: bytes, tenant_id: int, used: Use, charged_nano: int) -> None:
        """Have sub-limits count a request that has ended; what its hold takes of them ends here."""
        hold = self._holds.get(request_id)
        use, held_nano = (hold.use, hold.amount_nano) if hold else (None, 0)
        self._sublimits.settle(tenant_id, use, held_nano, used, charged_nano)
        if hold is not None:
            self._holds[request_id] = hold._replace(use=None)

    def topup(self, tenant_id: int, amount_nano: int) -> int:
        """Add money. Returns the new balance."""
        if amount_nano < 0:
            raise BooksError("a top-up is never negative")
        self.open_wallet(tenant_id)
        purse = self._purses[tenant_id]
        self._put(tenant_id, purse._replace(wallet_nano=purse.wallet_nano + amount_nano))
        return self.balance(tenant_id)

    def correct(self, balances: Mapping[int, int | Purse]) -> None:
        """Take the purses from the accounts, as they are after a commit."""
        for tenant_id, balance in balances.items():
            self.open_wallet(tenant_id)
            self._put(tenant_id, purse_of(balance))

    def expire(self, now_ns: int) -> dict[int, int]:
        """Let grants whose time has come fund no new hold. Returns tenant → what nobody may use of them any more."""
        before_ns, self._now_ns = self._now_ns, max(now_ns, self._now_ns)
        if self._now_ns >= self._next_expiry_ns:
            self._next_expiry_ns = INT64_MAX
            held: dict[int, set[bytes]] = {}  # found once: an allowance ends for everybody at the same moment
            for request_id, hold in self._holds.items():
                held.setdefault(hold.tenant_id, set()).add(request_id)
            for tenant_id, purse in [one for one in self._purses.items() if one[1].grants]:
                if any(before_ns < grant.expires_ns <= self._now_ns for grant in purse.grants):
                    ids = held.get(tenant_id, set())
                    self._earlier[tenant_id] = _Earlier(ids, sum(self._holds[one].amount_nano for one in ids))
                self._put(tenant_id, purse)
        return {tenant_id: left for tenant_id in self._earlier if (left := self._left_over(tenant_id))}

    def owner_gone(self, owner: str) -> int:
        """Give back every hold of an owner that died and whose journal is settled. Returns how many there were."""
        gone = self._owned.get(owner, set()).copy()
        for request_id in gone:
            self.release(request_id)
        return len(gone)

    def _put(self, tenant_id: int, purse: Purse) -> None:
        """Replace a purse and all that follows from it."""
        self._purses[tenant_id] = purse
        held = self._held[tenant_id]
        promised = self._promised.get(tenant_id, 0) if held else 0
        self._promised[tenant_id] = max(promised, purse.limit_nano)
        for grant in purse.grants:
            if grant.expires_ns > self._now_ns:
                self._next_expiry_ns = min(self._next_expiry_ns, grant.expires_ns)
        if not purse.expired_nano(self._now_ns):
            self._earlier.pop(tenant_id, None)
        elif tenant_id not in self._earlier:
            self._earlier[tenant_id] = _Earlier(set(), 0)
        self._count(tenant_id)
        self._cover(tenant_id)

    def _limit(self, tenant_id: int) -> int:
        """The credit that new holds may be given under."""
        limit = self.purse(tenant_id).limit_nano
        caps = self._caps.get(tenant_id) if self._caps else None
        return limit if caps is None else min(limit, *caps)

    def _recount(self, tenant_id: int) -> None:
        if tenant_id in self._purses:
            self._count(tenant_id)

    def _count(self, tenant_id: int) -> None:
        purse = self._purses[tenant_id]
        usable = purse.wallet_nano + self._limit(tenant_id)
        if purse.grants:
            expired = purse.expired_nano(self._now_ns)
            usable += purse.granted_nano - expired
            if expired:
                usable += min(expired, self._earlier[tenant_id].held_nano)
        self._usable[tenant_id] = usable

    def _left_over(self, tenant_id: int) -> int:
        return max(0, self._purses[tenant_id].expired_nano(self._now_ns) - self._earlier[tenant_id].held_nano)

    def _unhold(self, request_id: bytes, tenant_id: int, amount_nano: int) -> None:
        self._held[tenant_id] -= amount_nano
        if not self._held[tenant_id]:
            self._promised[tenant_id] = self._purses[tenant_id].limit_nano
        earlier = self._earlier.get(tenant_id)
        if earlier is not None and request_id in earlier.ids:
            earlier.ids.discard(request_id)
            self._earlier[tenant_id] = earlier._replace(held_nano=earlier.held_nano - amount_nano)
            self._count(tenant_id)

    def _short(self, tenant_id: int) -> int:
        """What holds lack, under the limit they were given under."""
        lowered = self._promised[tenant_id] - self._limit(tenant_id)
        return self._held[tenant_id] - self._usable[tenant_id] - lowered

    def _cover(self, tenant_id: int) -> None:
        """Cut holds that the purse no longer covers: only after a charge whose hold this teller did not know."""
        short = self._short(tenant_id)
        if short <= 0:
            return
        for request_id, hold in list(self._holds.items()):
            if hold.tenant_id == tenant_id and short > 0:
                cut = min(short, hold.amount_nano)
                self._holds[request_id] = hold._replace(amount_nano=hold.amount_nano - cut)
                if hold.use is not None:
                    self._sublimits.release(tenant_id, hold.use, hold.amount_nano)
                    self._sublimits.take(tenant_id, hold.use, hold.amount_nano - cut)
                self._held[tenant_id] -= cut
                earlier = self._earlier.get(tenant_id)
                if earlier is not None and request_id in earlier.ids:
                    self._earlier[tenant_id] = earlier._replace(held_nano=earlier.held_nano - cut)
                    self._count(tenant_id)
                short = self._short(tenant_id)

    def complaints(self, balances: Mapping[int, int | Purse] | None = None) -> list[str]:
        """Where I4 does not hold, in words; empty when all is well. `balances` are the accounts', if at hand."""
        found: list[str] = []
        held = self.aside()
        for hold in self._holds.values():
            held[hold.tenant_id] = held.get(hold.tenant_id, 0) + hold.amount_nano
        for tenant_id, purse in self._purses.items():
            if held.get(tenant_id, 0) != self._held[tenant_id]:
                found.append(f"tenant {tenant_id}: held is not the sum of open holds and leases")
            if self._held[tenant_id] and self._short(tenant_id) > 0:
                found.append(f"tenant {tenant_id}: available is below zero")
            if balances is None:
                continue
            booked = balances.get(tenant_id, 0)
            if booked != (purse if isinstance(booked, Purse) else purse.wallet_nano):
                found.append(f"tenant {tenant_id}: the teller's balance is not the account's")
        return found
