"""What a journal keeps of a choice: short, whole, and one word for what decided."""

import pytest

from steelyard.kernel import limits
from steelyard.kernel.why import (
    Tried,
    Way,
    Weighed,
    Why,
    bytes_from_way,
    bytes_from_why,
    reason,
    way_from_bytes,
    why_from_bytes,
)

FIRST = Weighed(1, 1, score=1000, cost_nano=2_000_000, first_token_ms=300, held_permille=0, strain=100)


def other(**changes: object) -> Weighed:
    values = {"score": 1200, "cost_nano": 2_000_000, "first_token_ms": 300, "held_permille": 0, "strain": 100}
    return Weighed(2, 2, **values | changes)  # type: ignore[arg-type]


def test_it_comes_back_as_it_was_and_is_short() -> None:
    why = Why("balanced", "default", (FIRST, other(), Weighed(3, 0, "rate_limited")))
    kept = bytes_from_why(why)
    assert why_from_bytes(kept) == why
    assert len(kept) < 110
    tried = (Tried("first", "server"),)
    assert way_from_bytes(bytes_from_way(kept, tried)) == Way(why, tried)
    assert way_from_bytes(bytes_from_way(b"", tried)) == Way(None, tried)


def test_of_many_offers_the_best_are_kept() -> None:
    why = Why("cheapest", "key", tuple(Weighed(number, number) for number in range(1, 50)))
    assert why_from_bytes(bytes_from_why(why)).offers == why.offers[: limits.WEIGHED_KEPT_MAX]


@pytest.mark.parametrize(
    ("policy", "second", "word"),
    [
        ("balanced", None, "only"),
        ("balanced", Weighed(2, 0, "open"), "only"),
        ("pinned", other(cost_nano=1), "pinned"),
        ("balanced", other(cost_nano=3_000_000), "cost"),
        ("balanced", other(cost_nano=3_000_000, first_token_ms=900), "cost"),
        ("fastest", other(cost_nano=3_000_000, first_token_ms=900), "speed"),
        ("balanced", other(cost_nano=2_000_001, first_token_ms=900), "speed"),
        ("balanced", other(first_token_ms=0), "order"),
        ("balanced", other(strain=900), "load"),
        ("balanced", other(), "order"),
    ],
)
def test_one_word_says_what_decided(policy: str, second: Weighed | None, word: str) -> None:
    assert reason(Why(policy, "model", (FIRST, second) if second else (FIRST,))) == word


def test_a_cache_is_named_before_the_money_it_saves() -> None:
    holder = Weighed(1, 1, cost_nano=1_000_000, held_permille=800, strain=200)
    assert reason(Why("cheapest", "model", (holder, other(strain=1000)))) == "cache"
