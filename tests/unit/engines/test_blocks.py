"""Our account of a prefix cache: whole blocks only, the least recently used make room, never too much."""

from hypothesis import given
from hypothesis import strategies as st

from steelyard.engines.blocks import Blocks


def test_whole_blocks_of_a_beginning_are_found_again() -> None:
    blocks = Blocks(4, 100)
    blocks.add(range(10))
    assert blocks.cached(range(10)) == 8
    assert blocks.cached([*range(8), 99, 98, 97]) == 8
    assert blocks.cached([*range(4), 99, *range(5, 10)]) == 4
    assert blocks.cached(range(3)) == 0
    assert blocks.cached([7, *range(1, 10)]) == 0


def test_the_last_token_is_always_computed() -> None:
    blocks = Blocks(4, 100)
    blocks.add(range(8))
    assert blocks.cached(range(8)) == 7


def test_the_same_block_behind_another_beginning_is_another_block() -> None:
    blocks = Blocks(2, 100)
    blocks.add([1, 2, 3, 4])
    assert blocks.cached([9, 9, 3, 4]) == 0


def test_what_was_used_longest_ago_makes_room() -> None:
    blocks = Blocks(2, 4)
    blocks.add([1, 1, 2, 2])
    blocks.add([3, 3, 4, 4])
    assert blocks.cached([1, 1, 2, 2, 0]) == 4, "looked at: now the others are older"
    blocks.add([5, 5, 6, 6])
    assert blocks.cached([3, 3, 4, 4, 0]) == 0
    assert blocks.cached([1, 1, 2, 2, 0]) == 4


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=8), st.lists(st.integers(0, 2), max_size=12))
def test_never_more_than_some_earlier_prompt_shares(earlier: list[list[int]], prompt: list[int]) -> None:
    blocks = Blocks(3, 5)
    for one in earlier:
        blocks.add(one)
    shared = 0
    for one in earlier:
        length = next(
            (n for n, (a, b) in enumerate(zip(one, prompt, strict=False)) if a != b), min(len(one), len(prompt))
        )
        shared = max(shared, length)
    assert blocks.cached(prompt) <= min(shared, max(0, len(prompt) - 1))
