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
        return self.wallet_nano + sum(amount for _, amount in self.granted)


class Purse(NamedTuple):
    """`grants` have something left and stand in the order in which they are drawn on."""

    wallet_nano: int
    limit_nano: int = 0
    grants: tuple[Grant, ...] = ()

    @property
    def granted_nano(self) -> int:
        return sum(grant.left_nano for grant in self.grants)

    def draw(self, charge_nano: int, limit_nano: int | None = None) -> Drawn:
        """Take a charge, or as much of it as there is. `limit_nano` counts instead of the purse's own, if given."""
        limit = self.limit_nano if limit_nano is None else limit_nano
        due, granted = charge_nano, []
        kept = self.grants
        if kept and due:
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
