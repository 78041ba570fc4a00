"""Text out of tokens: whole characters, and nothing of a stop text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.engines.text import Text

PIECES = [bytes([byte]) for byte in range(256)]


def run(data: bytes, *stops: str) -> tuple[list[str], str | None]:
    text = Text(PIECES, stops)
    said = []
    for byte in data:
        said.append(text.feed(byte))
        if text.stop is not None:
            return said, text.stop
    return [*said, text.rest()], text.stop


@given(st.text(max_size=20))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    said, stop = run(text.encode())
    assert ("".join(said), stop) == (text, None)
    assert not any("\ufffd" in piece for piece in said) or "\ufffd" in text


def test_half_a_character_at_the_end_is_told_as_such() -> None:
    assert "".join(run("ok 你".encode()[:-1])[0]) == "ok \ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected", "met"),
    [
        ("The capital is Paris.", [" Paris"], "The capital is", " Paris"),
        ("aab", ["aab"], "", "aab"),
        ("aaab", ["aab"], "a", "aab"),
        ("ababac", ["abac"], "ab", "abac"),
        ("one two", ["x", "two"], "one ", "two"),
        ("no stop here", ["stop!"], "no stop here", None),
        ("ends like a sto", ["stop"], "ends like a sto", None),
        ("你好。再见", ["。"], "你好", "。"),
    ],
)
def test_stop_texts(text: str, stops: list[str], expected: str, met: str | None) -> None:
    said, stop = run(text.encode(), *stops)
    assert ("".join(said), stop) == (expected, met)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_it_is_cut_where_the_whole_text_would_be(text: str, stops: list[str]) -> None:
    """The first moment a stop text is complete ends it; of several complete then, the one that began first."""
    expected, met = text, None
    for end in range(len(text) + 1):
        found = [(text[:end].find(stop), stop) for stop in stops if stop in text[:end]]
        if found:
            place, met = min(found)
            expected = text[:place]
            break
    said, stop = run(text.encode(), *stops)
    assert ("".join(said), stop) == (expected, met)
