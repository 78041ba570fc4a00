"""Whether pieces add or repeat: the text that comes out is the same, whatever the server's habit."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.growth import Growth


def heard(pieces: list[str]) -> list[str]:
    growth = Growth("vendor")
    return [growth.feed(piece, last=place == len(pieces) - 1) for place, piece in enumerate(pieces)]


@settings(max_examples=50)
@given(st.lists(st.text("abc1 ", min_size=1, max_size=8), min_size=1, max_size=8))
def test_a_server_that_repeats_ends_with_the_whole_text_again(pieces: list[str]) -> None:
    said = list(itertools.accumulate(pieces))
    assert "".join(heard([*said, said[-1]])) == said[-1]


@settings(max_examples=50)
@given(st.lists(st.text("abc1", min_size=1, max_size=4), min_size=1, max_size=8))
def test_a_server_that_adds_ends_with_nothing(pieces: list[str]) -> None:
    whole = "".join(pieces)
    growing = all(after.startswith(before) and after != before for before, after in itertools.pairwise(pieces[:3]))
    if growing and len(pieces) > 2:
        return  # three pieces, each the one before and more: taken for a repetition
    assert "".join(heard([*pieces, ""])) == whole


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["Hel", "lo", ""], ["Hel", "lo", ""]),
        (["1", "1", "1", ""], ["1", "1", "1", ""]),
        (["ha", "haha", ""], ["ha", "", "haha"]),
        (["a", "ab", "c", ""], ["a", "", "abc", ""]),
        (["a", "ab", "abc", "abcd"], ["a", "", "bc", "d"]),
        (["Hel", "Hello"], ["Hel", "lo"]),
        (["Hello", "Hello"], ["Hello", ""]),
        (["I am a model", "I am a model that", "I am a model that"], ["I am a model", " that", ""]),
        (["", "Hello", "", " you"], ["", "Hello", "", " you"]),
    ],
)
def test_what_is_new_comes_as_soon_as_it_is_certain(pieces: list[str], said: list[str]) -> None:
    assert heard(pieces) == said


def test_a_text_that_is_taken_back_ends_the_answer() -> None:
    growth = Growth("vendor")
    growth.feed("I am a model")
    growth.feed("I am a model that reads")
    with pytest.raises(UpstreamError, match="took back"):
        growth.feed("I am a model that writes")
