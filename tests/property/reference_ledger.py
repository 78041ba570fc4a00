"""A ledger of a page, to compare the real one with: plain sums in plain objects, no database and no teller."""

from dataclasses import dataclass, field


@dataclass
class Free:
    """One grant."""

    expires_ns: int
    left: int
    earlier: set[int] = field(default_factory=set)


@dataclass
class Customer:
    """What one tenant has. `holds` by number of the request; `promised` is the limit they were given under."""

    wallet: int = 0
    limit: int = 0
    promised: int = 0
    grants: list[Free] = field(default_factory=list)
    holds: dict[int, int] = field(default_factory=dict)
    earlier: set[int] = field(default_factory=set)


class ReferenceLedger:
    """Every operation changes the sums or refuses (False, or 0 for a hold)."""

    def __init__(self, tenants: int, money: int) -> None:
        self.now_ns = 0
        self.customers = [Customer(money) for _ in range(tenants)]

    def expired(self, who: int) -> int:
        return sum(grant.left for grant in self.customers[who].grants if grant.expires_ns <= self.now_ns)

    def live(self, who: int) -> int:
        return sum(grant.left for grant in self.customers[who].grants if grant.expires_ns > self.now_ns)

    def still_promised(self, who: int) -> int:
        """What is left of expired grants for the requests that were held for before."""
        one = self.customers[who]
        return min(self.expired(who), sum(one.holds[number] for number in one.earlier))

    def available(self, who: int) -> int:
        one = self.customers[who]
        return one.wallet + one.limit + self.live(who) + self.still_promised(who) - sum(one.holds.values())

    def payable(self, who: int) -> int:
        one = self.customers[who]
        return max(0, min(one.wallet, self.available(who) - one.limit))

    def hold(self, who: int, number: int, want: int, floor: int) -> int:
        got = max(0, min(want, self.available(who)))
        if got < floor:
            return 0
        self.customers[who].holds[number] = got
        return got

    def end(self, who: int, number: int, charge: int) -> None:
        """The request took `charge`, at most its hold."""
        one = self.customers[who]
        due = min(charge, one.holds.pop(number))
        one.earlier.discard(number)
        for grant in sorted(one.grants, key=lambda grant: grant.expires_ns):
            taken = min(due, grant.left)
            grant.left -= taken
            due -= taken
        one.wallet -= due
        if not one.holds:
            one.promised = one.limit

    def grant(self, who: int, amount: int, expires_ns: int) -> None:
        self.customers[who].grants.append(Free(expires_ns, amount))

    def set_limit(self, who: int, limit: int) -> None:
        self.customers[who].limit = limit

    def pay(self, who: int, amount: int, to: int | None = None) -> bool:
        """A refund, or a transfer to another."""
        if self.payable(who) < amount:
            return False
        self.customers[who].wallet -= amount
        if to is not None:
            self.customers[to].wallet += amount
        return True

    def pass_time(self, ns: int) -> None:
        """Grants whose time comes stay with the requests that run; what nobody may use of them is gone."""
        before, self.now_ns = self.now_ns, self.now_ns + ns
        for who, one in enumerate(self.customers):
            if any(before < grant.expires_ns <= self.now_ns for grant in one.grants if grant.left):
                one.earlier = set(one.holds)
            gone = self.expired(who) - self.still_promised(who)
            for grant in sorted(one.grants, key=lambda grant: grant.expires_ns)[::-1]:  # of two alike the later one
                taken = min(gone, grant.left) if grant.expires_ns <= self.now_ns else 0
                grant.left -= taken
                gone -= taken
