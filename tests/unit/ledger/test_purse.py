"""Purses: what a charge draws on and in which order, at the teller with holds open, expiry and credit limits beside."""

import pytest

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.ledger.purse import Grant, Purse
from steelyard.ledger.teller import Teller


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _grants(*some: tuple[int, int]) -> tuple[Grant, ...]:
    """(expires, left) each."""
    return tuple(sorted(Grant(expires, 1 + at, f"grant:a#{1 + at}", left) for at, (expires, left) in enumerate(some)))


def test_a_charge_draws_on_grants_first_the_earliest_expiry_first() -> None:
    purse = Purse(100, 0, _grants((30, 5), (10, 7), (10, 2)))
    drawn = purse.draw(11)
    assert drawn.granted == (("grant:a#2", 7), ("grant:a#3", 2), ("grant:a#1", 2))
    assert (drawn.wallet_nano, drawn.total_nano, drawn.purse.granted_nano) == (0, 11, 3)
    rest = drawn.purse.draw(50)
    assert (rest.wallet_nano, rest.granted, rest.purse) == (47, (("grant:a#1", 3),), Purse(53))


@pytest.mark.parametrize(
    ("purse", "charge", "taken", "left"),
    [
        (Purse(0), 5, 0, 0),
        (Purse(5), 0, 0, 5),
        (Purse(5), 9, 5, 0),
        (Purse(5, 3), 9, 8, -3),
        (Purse(-3, 3), 1, 0, -3),
        (Purse(-9, 3), 1, 0, -9),  # the limit was lowered under what is used
        (Purse(INT64_MAX), INT64_MAX, INT64_MAX, 0),
    ],
)
def test_a_wallet_goes_down_to_its_credit_limit(purse: Purse, charge: int, taken: int, left: int) -> None:
    drawn = purse.draw(charge)
    assert (drawn.total_nano, drawn.purse.wallet_nano) == (taken, left)


def test_available_is_wallet_and_grants_and_credit_less_held() -> None:
    teller = Teller({1: Purse(10, 20, _grants((50, 5)))})
    assert teller.available(1) == 35
    assert teller.hold(_id(1), 1, 40, 1, "w") == 35
    assert (teller.available(1), teller.payable(1)) == (0, 0)
    assert teller.settle(_id(1), 1, 35, 30) == 30
    assert (teller.balance(1), teller.available(1), teller.purse(1).grants) == (-15, 5, ())
    assert teller.complaints({1: Purse(-15, 20)}) == []
    assert teller.complaints({1: Purse(-15, 19)}) != []


def test_an_expired_grant_funds_no_new_hold() -> None:
    teller = Teller({1: Purse(10, 0, _grants((50, 100)))})
    assert teller.expire(49) == {}
    assert teller.available(1) == 110
    assert teller.expire(50) == {1: 100}
    assert (teller.available(1), teller.payable(1)) == (10, 10)


def test_what_was_held_before_the_expiry_stays_usable_and_is_swept_when_the_hold_ends() -> None:
    teller = Teller({1: Purse(10, 0, _grants((50, 100)))})
    teller.hold(_id(1), 1, 60, 60, "w")
    assert teller.expire(50) == {1: 40}  # 60 belong to the open request
    assert teller.available(1) == 10
    assert teller.hold(_id(2), 1, 11, 11, "w") == 0  # not from what expired, swept or not
    assert teller.hold(_id(2), 1, 10, 10, "w") == 10
    teller.correct({1: Purse(10, 0, _grants((50, 60)))})  # the sweep was posted
    assert teller.expire(51) == {}
    assert teller.settle(_id(1), 1, 60, 25) == 25
    assert teller.expire(52) == {1: 35}
    assert (teller.balance(1), teller.available(1)) == (10, 0)
    assert teller.settle(_id(2), 1, 10, 10) == 10  # the expired rest pays first: it is there until it is swept
    assert teller.complaints() == []


def test_later_holds_do_not_become_earlier_when_another_tenants_grant_expires() -> None:
    teller = Teller({1: Purse(100, 0, _grants((50, 10))), 2: Purse(0, 0, _grants((60, 10)))})
    assert teller.expire(50) == {1: 10}
    teller.hold(_id(1), 1, 100, 100, "w")
    assert teller.expire(60) == {1: 10, 2: 10}
    assert teller.available(1) == 0


def test_a_grant_that_arrives_expired_is_swept() -> None:
    teller = Teller({1: 0})
    teller.expire(100)
    teller.correct({1: Purse(0, 0, _grants((90, 5)))})
    assert teller.available(1) == 0
    assert teller.expire(101) == {1: 5}


def test_lowering_a_limit_only_stops_new_holds() -> None:
    teller = Teller({1: Purse(0, 100)})
    teller.hold(_id(1), 1, 80, 80, "w")
    teller.correct({1: Purse(0, 50)})
    assert teller.available(1) == -30
    assert teller.hold(_id(2), 1, 10, 0, "w") == 0
    assert teller.complaints() == []
    assert teller.settle(_id(1), 1, 80, 70) == 70  # as it was promised
    assert (teller.balance(1), teller.available(1)) == (-70, -20)
    assert teller.hold(_id(3), 1, 1, 1, "w") == 0
    teller.topup(1, 30)
    assert teller.hold(_id(3), 1, 50, 1, "w") == 10


def test_only_wallet_money_is_payable() -> None:
    teller = Teller({1: Purse(10, 50, _grants((90, 8)))})
    assert teller.payable(1) == 10
    teller.hold(_id(1), 1, 6, 6, "w")  # the grant stands for it
    assert teller.payable(1) == 10
    teller.hold(_id(2), 1, 6, 6, "w")
    assert teller.payable(1) == 6
    assert Teller({1: Purse(-5, 50)}).payable(1) == 0


def test_a_charge_nobody_held_for_cuts_holds_also_those_on_expired_credit() -> None:
    teller = Teller({1: Purse(10, 0, _grants((50, 10)))})
    teller.hold(_id(1), 1, 20, 20, "w")
    teller.expire(50)
    assert teller.settle(_id(9), 1, 100, 15) == 15
    assert teller.held(1) == 5
    assert teller.complaints() == []


def test_a_plain_wallet_below_zero_is_a_defect() -> None:
    with pytest.raises(BooksError):
        Teller({1: -1})
