"""A purse: all that a tenant can pay with, and in which order. One rule for the teller and for posting.

A charge draws on grants first, the earliest expiry first, then on the wallet, which may go down to minus the credit
limit. Pure.
"""

from typing import NamedTuple


class Grant(NamedTuple):
    """What is left of one grant; `account` is its name in the chart."""

    expires_ns: int
    id: int
    account: str
    left_nano: int


class Drawn(NamedTuple):
    """The purse after a charge, and what it came from."""

    purse: "Purse"
    wallet_nano: int
    granted: tuple[tuple[str, int], ...]  # (account of a grant, nano)

    @property
    def total_nano(self) -> int:
        return self.wallet_nano + sum(amount for _, amount in self.granted) if self.granted else self.wallet_nano


class Purse(NamedTuple):
    """`grants` have something left and stand in the order in which they are drawn on."""

    wallet_nano: int
    limit_nano: int = 0
    grants: tuple[Grant, ...] = ()

    @property
    def granted_nano(self) -> int:
        return sum(grant.left_nano for grant in self.grants)

    def covers(self, charge_nano: int) -> bool:
        """Whether charges of this sum draw on nothing but the wallet, and need not be drawn one by one."""
        return not self.grants and charge_nano <= self.wallet_nano + self.limit_nano

    def draw(self, charge_nano: int, limit_nano: int | None = None) -> Drawn:
        """Take a charge, or as much of it as there is. `limit_nano` counts instead of the purse's own, if given."""
        wallet, limit, kept = self
        limit = limit if limit_nano is None else limit_nano
        if not kept:  # most purses: this is on the way of every request
            taken = max(0, min(charge_nano, wallet + limit))
            return Drawn(Purse(wallet - taken, self.limit_nano), taken, ())
        due, granted = charge_nano, []
        if due:
            left: list[Grant] = []
            for grant in kept:
                taken = min(due, grant.left_nano)
                due -= taken
                if taken:
                    granted.append((grant.account, taken))
                if taken < grant.left_nano:
                    left.append(grant._replace(left_nano=grant.left_nano - taken))
            kept = tuple(left)
        taken = max(0, min(due, self.wallet_nano + limit))
        return Drawn(Purse(self.wallet_nano - taken, self.limit_nano, kept), taken, tuple(granted))

    def expired_nano(self, now_ns: int) -> int:
        """What is left of grants whose time has come and whose expiry is not posted yet."""
        return sum(grant.left_nano for grant in self.grants if grant.expires_ns <= now_ns)


def purse_of(value: "int | Purse") -> Purse:
    """A plain number is a wallet without grants and credit."""
    return value if isinstance(value, Purse) else Purse(value)
