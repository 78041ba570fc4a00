"""What prompt lookup drafts, and the sums of it."""

from hypothesis import given
from hypothesis import strategies as st

from steelyard.engines.drafts import DRAFT_RUN, DRAFT_TOKENS, Drafts, draft


def test_the_longest_run_that_was_there_before_is_followed_the_first_time_it_was() -> None:
    assert draft([1, 2, 3, 9, 1, 2, 3, 8, 7, 1, 2, 3], 5) == [9, 1, 2, 3, 8]
    assert draft([1, 2, 3, 9, 4, 2, 3], 2) == [9, 4]
    assert draft([5, 6, 7, 5], 5) == [6, 7, 5]
    assert draft([4, 4, 4, 4], 5) == [4], "a run may overlap the end"
    assert draft([1, 2, 3], 5) == []
    assert draft([1, 1], 0) == draft([], 5) == []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_it_is_what_looking_at_every_place_finds(known: list[int], most: int) -> None:
    found: list[int] = []
    for length in range(min(DRAFT_RUN, len(known)), 0, -1):
        run = known[-length:]
        places = [place for place in range(len(known) - length) if known[place : place + length] == run]
        if places:
            found = known[places[0] + length :][:most]
            break
    assert draft(known, most) == found


def test_sums_count_what_was_tried_and_what_held() -> None:
    drafts = Drafts()
    known = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    drafts.add(known, [4, 5, 9], 100)
    assert (drafts.drafted, drafts.accepted) == (DRAFT_TOKENS, 2)
    drafts.add(known, [4, 5, 6], 3)
    assert (drafts.drafted, drafts.accepted) == (DRAFT_TOKENS + 2, 4), "the last token of an answer is never drafted"
    drafts.add([1, 2], [3], 100)
    assert (drafts.drafted, drafts.accepted) == (DRAFT_TOKENS + 2, 4)
