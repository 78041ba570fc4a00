"""Events come out whole, however the bytes were cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.sse import EventReader

STREAM = (
    'data: {"a":"é😀"}\n\n: sign of life\n\nevent: x\r\nid: 4\r\ndata:two\r\ndata: lines\r\n\r\ndata: [DONE]\n\n'
).encode()
EVENTS = ['{"a":"é😀"}'.encode(), b"two\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    reader = EventReader("u")
    events = [e for a, b in pairwise(places) for e in reader.feed(STREAM[a:b])]
    assert events == EVENTS


@pytest.mark.parametrize(
    "stream", [b"data: " + b"x" * 200, b"data: " + b"x" * 60 + b"\n" + b"data: " + b"x" * 60 + b"\n"]
)
def test_an_event_without_end_is_refused(stream: bytes) -> None:
    with pytest.raises(UpstreamError, match="more than 100 bytes"):
        EventReader("u", event_bytes_max=100).feed(stream)
