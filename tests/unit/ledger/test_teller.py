"""The teller: grants, refusals, idempotence, and I4 in every step a random history can take."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steelyard.kernel.errors import BooksError
from steelyard.ledger.purse import Grant, Purse
from steelyard.ledger.teller import Hold, Teller


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_grants_what_is_asked_while_the_wallet_covers_it() -> None:
    teller = Teller({1: 100})
    assert teller.hold(_id(1), 1, 60, 10, "w0-1") == 60
    assert (teller.balance(1), teller.held(1), teller.available(1)) == (100, 60, 40)


def test_grants_less_when_the_floor_is_covered_and_refuses_below_it() -> None:
    teller = Teller({1: 100})
    teller.hold(_id(1), 1, 60, 10, "w0-1")
    assert teller.hold(_id(2), 1, 60, 40, "w0-1") == 40
    assert teller.hold(_id(3), 1, 60, 1, "w0-1") == 0
    assert teller.open_holds == 2


class Looked(dict[bytes, Hold]):
    """Counts how often it is looked through."""

    looks = 0

    def items(self) -> Any:
        self.looks += 1
        return super().items()


def test_holds_are_looked_through_once_however_many_grants_expire() -> None:
    purse = Purse(100, 0, (Grant(50, 1, "grant:x#1", 10),))
    teller = Teller(dict.fromkeys(range(1, 20), purse))
    teller.hold(_id(1), 7, 105, 105, "w0-1")
    teller._holds = holds = Looked(teller._holds)
    left = teller.expire(50)
    assert holds.looks == 1
    assert left == dict.fromkeys((one for one in range(1, 20) if one != 7), 10), "what 7 holds may still need it"
    assert (teller.available(1), teller.available(7)) == (100, 5)


def test_asking_again_sets_nothing_more_aside() -> None:
    teller = Teller({1: 100})
    assert teller.hold(_id(1), 1, 60, 10, "w0-1") == teller.hold(_id(1), 1, 60, 10, "w0-1") == 60
    assert teller.held(1) == 60


def test_the_same_request_is_nothing_to_another_tenant() -> None:
    teller = Teller({1: 100, 2: 100})
    teller.hold(_id(1), 1, 60, 10, "w0-1")
    assert teller.hold(_id(1), 2, 60, 10, "w0-1") == 0
    assert teller.held(2) == 0


def test_an_unknown_tenant_gets_nothing() -> None:
    assert Teller().hold(_id(1), 7, 10, 1, "w0-1") == 0


def test_settling_takes_the_charge_and_gives_back_the_rest() -> None:
    teller = Teller({1: 100})
    teller.hold(_id(1), 1, 60, 10, "w0-1")
    assert teller.settle(_id(1), 1, 60, 25) == 25
    assert (teller.balance(1), teller.held(1)) == (75, 0)


def test_a_charge_never_takes_more_than_its_hold_nor_the_wallet_below_zero() -> None:
    teller = Teller({1: 100})
    teller.hold(_id(1), 1, 60, 10, "w0-1")
    assert teller.settle(_id(1), 1, 60, 90) == 60
    assert teller.settle(_id(2), 1, 90, 90) == 40
    assert teller.balance(1) == 0


def test_a_charge_without_a_known_hold_cuts_other_holds_rather_than_the_wallet() -> None:
    teller = Teller({1: 100})
    teller.hold(_id(1), 1, 80, 80, "w0-1")
    teller.settle(_id(2), 1, 50, 50)
    assert (teller.available(1), teller.held(1)) == (0, 50)
    assert teller.complaints() == []


def test_a_dead_owner_gives_all_his_holds_back_and_nobody_elses() -> None:
    teller = Teller({1: 100})
    teller.hold(_id(1), 1, 10, 10, "w0-1")
    teller.hold(_id(2), 1, 20, 20, "w0-1")
    teller.hold(_id(3), 1, 30, 30, "w1-2")
    assert teller.owner_gone("w0-1") == 2
    assert teller.held(1) == 30
    assert teller.owner_gone("w0-1") == 0


def test_fifty_askers_drain_a_wallet_to_the_last_nano() -> None:
    teller = Teller({1: 1_000_003})
    granted = [teller.hold(_id(number), 1, 30_000, 1, f"w{number % 4}-1") for number in range(50)]
    assert sum(granted) == 1_000_003
    assert teller.available(1) == 0
    assert granted.count(30_000) == 33
    assert teller.hold(_id(99), 1, 1, 1, "w0-1") == 0


@pytest.mark.parametrize(("want", "floor"), [(-1, -1), (5, 6), (5, -1)])
def test_senseless_holds_are_a_bug(want: int, floor: int) -> None:
    with pytest.raises(BooksError):
        Teller({1: 10}).hold(_id(1), 1, want, floor, "w0-1")


def test_complaints_name_what_is_wrong() -> None:
    teller = Teller({1: 100})
    assert teller.complaints({1: 100}) == []
    assert "not the account's" in teller.complaints({1: 99})[0]
    teller._held[1] = 5
    assert "sum of open holds" in teller.complaints()[0]


amounts = st.integers(0, 1000)
requests = st.integers(0, 12).map(_id)
tenants = st.integers(1, 3)
owners = st.sampled_from(["w0-1", "w1-2"])


class TellerHistory(RuleBasedStateMachine):
    """Any order of everything that can happen, against money counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.teller = Teller({1: 500, 2: 0})
        self.topped_up = {1: 500, 2: 0, 3: 0}
        self.taken = {1: 0, 2: 0, 3: 0}

    @rule(request=requests, tenant=tenants, want=amounts, floor=amounts, owner=owners)
    def hold(self, request: bytes, tenant: int, want: int, floor: int, owner: str) -> None:
        want, floor = max(want, floor), min(want, floor)
        before, known = self.teller.available(tenant), self.teller.find(request)
        granted = self.teller.hold(request, tenant, want, floor, owner)
        if known is None and granted:
            assert floor <= granted == min(want, before)

    @rule(request=requests, tenant=tenants, hold=amounts, charge=amounts)
    def settle(self, request: bytes, tenant: int, hold: int, charge: int) -> None:
        known = self.teller.find(request)
        tenant = known.tenant_id if known else tenant
        taken = self.teller.settle(request, tenant, hold, charge)
        assert taken <= min(charge, hold)
        self.taken[tenant] += taken

    @rule(request=requests)
    def release(self, request: bytes) -> None:
        self.teller.release(request)
        assert self.teller.find(request) is None

    @rule(tenant=tenants, amount=amounts)
    def topup(self, tenant: int, amount: int) -> None:
        self.teller.topup(tenant, amount)
        self.topped_up[tenant] += amount

    @rule(owner=owners)
    def die(self, owner: str) -> None:
        self.teller.owner_gone(owner)
        assert not self.teller.owned(owner)

    @invariant()
    def i4_holds(self) -> None:
        balances = {tenant: self.topped_up[tenant] - self.taken[tenant] for tenant in self.topped_up}
        assert self.teller.complaints(balances) == []
        for tenant, balance in balances.items():
            assert self.teller.balance(tenant) == balance
            assert self.teller.available(tenant) >= 0


TestTellerHistory = TellerHistory.TestCase


@given(balance=st.integers(0, 10**15), wants=st.lists(st.integers(1, 10**14), max_size=60))
def test_grants_never_add_up_to_more_than_the_wallet(balance: int, wants: list[int]) -> None:
    teller = Teller({1: balance})
    granted = [teller.hold(_id(number), 1, want, 1, "w0-1") for number, want in enumerate(wants)]
    assert sum(granted) == teller.held(1) == min(balance, sum(wants))
