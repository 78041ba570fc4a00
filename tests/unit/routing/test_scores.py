"""Scores as a pure function: what each policy prefers, and what ties, unknowns, errors, load and weights do."""

import random

import pytest

from steelyard.kernel.routes import Policy
from steelyard.routing.scores import PARTS, View
from steelyard.routing.scores import scores as of_lists

Seen = dict[str, int]


def view(cost: int = 100, time: int = 100, energy: int = 100, **more: int) -> Seen:
    """One candidate; 0: not known."""
    seen = {"costs_nano": cost, "times_ns": time, "energies_uj": energy, "in_flight": 0, "concurrency": 0}
    return {**seen, "error_parts": 0, "weights": 100, "strains": 0, **more}


def scores(views: list[Seen], policy: Policy) -> list[int]:
    return of_lists(View(**{name: [one[name] for one in views] for name in View._fields}), policy)


CHEAP, FAST, GREEN = view(10, 300, 300), view(300, 10, 300), view(300, 300, 10)


@pytest.mark.parametrize(
    ("policy", "first"), [(Policy.CHEAPEST, 0), (Policy.FASTEST, 1), (Policy.GREENEST, 2), (Policy.BALANCED, 0)]
)
def test_each_policy_prefers_its_own(policy: Policy, first: int) -> None:
    found = scores([CHEAP, FAST, GREEN], policy)
    assert found.index(min(found)) == first


@pytest.mark.parametrize("policy", list(Policy))
def test_equal_offers_have_the_score_of_the_best(policy: Policy) -> None:
    assert scores([view(), view()], policy) == [PARTS, PARTS]


@pytest.mark.parametrize(
    "worse",
    [view(cost=101), view(time=101), view(error_parts=10), view(in_flight=1), view(weights=99), view(strains=100)],
)
def test_whatever_is_worse_is_never_better(worse: Seen) -> None:
    for policy in Policy:
        best, other = scores([view(), worse], policy)
        assert best <= other


def test_money_decides_between_equally_fast_ones_and_the_other_way_round() -> None:
    for policy, worse in ((Policy.FASTEST, view(cost=200)), (Policy.CHEAPEST, view(time=200))):
        best, other = scores([view(), worse], policy)
        assert best < other


def test_whoever_was_not_measured_is_tried_by_one_request_at_a_time() -> None:
    best, unknown = scores([view(), view(time=0)], Policy.FASTEST)
    assert unknown == best
    best, unknown = scores([view(), view(time=0, in_flight=1)], Policy.FASTEST)
    assert unknown > best


def test_unknown_energy_is_the_worst_for_the_greenest_and_no_matter_elsewhere() -> None:
    known, unknown = scores([view(energy=10**9), view(energy=0)], Policy.GREENEST)
    assert known < unknown
    assert len(set(scores([view(), view(energy=0)], Policy.BALANCED))) == 1


def test_load_counts_against_an_offer_with_a_bound() -> None:
    free, busy = scores([view(concurrency=4), view(concurrency=4, in_flight=4)], Policy.FASTEST)
    assert busy > free * 3 // 2


def test_a_free_offer_is_the_cheapest_by_far_and_nothing_is_divided_by_nothing() -> None:
    free, paid = scores([view(cost=0), view(cost=1)], Policy.CHEAPEST)
    assert free < paid


def test_scores_are_bounded_and_the_same_every_time() -> None:
    dice = random.Random(7)
    views = [
        view(
            dice.randrange(10**12),
            dice.randrange(10**12),
            dice.choice((0, dice.randrange(10**9))),
            in_flight=dice.randrange(100),
            concurrency=dice.choice((0, 8)),
            error_parts=dice.randrange(1024),
            weights=dice.randrange(1, 1000),
            strains=dice.randrange(4000),
        )
        for _ in range(200)
    ]
    for policy in Policy:
        found = scores(views, policy)
        assert found == scores(views, policy)
        assert all(0 < one < 10**8 for one in found)
