"""A credit limit that is lowered: what only the old one covers is granted to nobody while the new one is written."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from steelyard.kernel.errors import CallerError, bad_request, unavailable
from steelyard.ledger.purse import Purse
from steelyard.ledger.teller import Teller
from steelyard.processes.lending import Lending
from steelyard.processes.outcome import Outcome
from steelyard.processes.paying import pay
from steelyard.processes.posting_loop import PostingLoop

CNY = 10**9
ACME = 1
OLD, NEW = Purse(5 * CNY, 10 * CNY), Purse(5 * CNY, CNY)


class Lent:
    """`given_back`: whether workers dissolve their leases when they are called back."""

    def __init__(self, given_back: bool = True) -> None:
        self.teller = Teller({ACME: OLD})
        self.given_back = given_back
        self.available: list[int] = []

    async def recall(self, tenant_id: int) -> bool:
        self.available.append(self.teller.available(ACME))
        return self.given_back


class Doubt:
    def __init__(self) -> None:
        self.acts: list[Callable[[], None]] = []

    def when_certain(self, act: Callable[[], None]) -> None:
        self.acts.append(act)


class Office:
    """Writes the limit, unless it has a reason not to; `available` is what the teller would have given meanwhile."""

    def __init__(self, teller: Teller, limit_nano: int, error: CallerError | None = None) -> None:
        self.teller = teller
        self.limit_nano = limit_nano
        self.error = error
        self.available: list[int] = []

    async def __call__(self, op: str, payload: dict[str, Any]) -> Outcome:
        if op == "limit.needs":
            return Outcome((ACME, self.limit_nano))
        assert op == "wallet.limit"
        self.available.append(self.teller.available(ACME))
        if self.error is not None:
            raise self.error
        return Outcome("done", {ACME: NEW})


async def lowered(lent: Lent, doubt: Doubt, office: Office) -> Outcome:
    return await pay(cast(Lending, lent), cast(PostingLoop, doubt), "wallet.limit", {}, office)


async def test_a_lower_limit_binds_new_holds_before_it_is_written() -> None:
    """Found by the simulator: who was held for meanwhile was charged under the lower limit, and we bore the rest."""
    lent = Lent()
    office = Office(lent.teller, CNY)
    outcome = await lowered(lent, Doubt(), office)
    assert office.available == lent.available == [6 * CNY], "and no lease is given again under the old one"
    lent.teller.correct(outcome.purses)
    assert lent.teller.available(ACME) == 6 * CNY


async def test_what_is_held_under_the_old_limit_stays_held() -> None:
    lent = Lent()
    lent.teller.hold(b"large", ACME, 9 * CNY, 0, "w0-1")
    office = Office(lent.teller, CNY)
    outcome = await lowered(lent, Doubt(), office)
    assert office.available == [-3 * CNY]
    assert lent.teller.complaints() == []
    lent.teller.correct(outcome.purses)
    assert lent.teller.complaints() == []
    assert lent.teller.settle(b"large", ACME, 9 * CNY, 9 * CNY) == 9 * CNY


async def test_a_refused_command_leaves_the_old_limit_in_force() -> None:
    lent, doubt = Lent(), Doubt()
    with pytest.raises(CallerError):
        await lowered(lent, doubt, Office(lent.teller, CNY, bad_request("no", "reason")))
    assert lent.teller.available(ACME) == 15 * CNY
    assert doubt.acts == []


async def test_while_nobody_knows_whether_it_was_written_the_lower_one_binds() -> None:
    lent, doubt = Lent(), Doubt()
    with pytest.raises(CallerError):
        await lowered(lent, doubt, Office(lent.teller, CNY, unavailable("books_unavailable", "?")))
    assert lent.teller.available(ACME) == 6 * CNY
    (certain,) = doubt.acts
    certain()
    assert lent.teller.available(ACME) == 15 * CNY


async def test_a_lease_under_the_old_limit_that_does_not_come_back_keeps_it_in_force() -> None:
    lent, doubt = Lent(given_back=False), Doubt()
    office = Office(lent.teller, CNY)
    with pytest.raises(CallerError) as caught:
        await lowered(lent, doubt, office)
    assert (caught.value.status, caught.value.code, office.available) == (503, "leases_out", [])
    assert lent.teller.available(ACME) == 15 * CNY


async def test_a_higher_limit_is_simply_written() -> None:
    lent = Lent()
    office = Office(lent.teller, 20 * CNY)
    await lowered(lent, Doubt(), office)
    assert office.available == [15 * CNY]


async def test_of_two_lower_limits_under_way_the_lowest_binds() -> None:
    teller = Teller({ACME: OLD})
    teller.cap(ACME, 4 * CNY)
    teller.cap(ACME, CNY)
    assert (teller.available(ACME), teller.payable(ACME), teller.collectable(ACME)) == (6 * CNY, 5 * CNY, 6 * CNY)
    teller.uncap(ACME, CNY)
    assert teller.available(ACME) == 9 * CNY
    teller.uncap(ACME, 4 * CNY)
    assert teller.available(ACME) == 15 * CNY
