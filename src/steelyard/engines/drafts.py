"""Our own account of the drafts of an engine that tells nobody what it drafted.

Prompt lookup guesses that what followed the last few tokens before follows them again. OpenVINO GenAI takes the longest
run of at most `DRAFT_RUN` tokens that was there before, and of those the first. This repeats that search, so it tells
what a step will draft: with version 2026.4.1 it fitted what was delivered in each of some 500 steps. Pure.
"""

from collections.abc import Sequence

DRAFT_RUN, DRAFT_TOKENS = 3, 5
"""So many of the last tokens, or fewer, must have been there before; so many of those that followed are tried."""


class Drafts:
    """The sums of one engine: what was drafted, and how much of that was what the model would have said."""

    def __init__(self) -> None:
        self.drafted = self.accepted = 0

    def add(self, known: list[int], said: Sequence[int], room: int) -> None:
        """A step delivered `said` after the tokens `known`; the answer had room for so many more tokens."""
        drafted = draft(known, min(DRAFT_TOKENS, room - 1))
        self.drafted += len(drafted)
        for guess, token in zip(drafted, said, strict=False):
            if guess != token:
                break
            self.accepted += 1


def draft(known: list[int], most: int) -> list[int]:
    """At most so many tokens that are tried after those that are known."""
    if most > 0:
        for length in range(min(DRAFT_RUN, len(known)), 0, -1):
            if (begin := _behind_run(known, length)) is not None:
                return known[begin : begin + most]
    return []


def _behind_run(known: list[int], length: int) -> int | None:
    """The place behind the first earlier occurrence of the last `length` tokens."""
    run, place, end = known[-length:], -1, max(0, len(known) - length)
    while True:
        try:
            place = known.index(run[0], place + 1, end)
        except ValueError:
            return None
        if known[place : place + length] == run:
            return place + length
