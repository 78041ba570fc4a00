"""What is read in runs is what the parser of single events reads, however the bytes are cut and whatever comes."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from tests.emulators.openai_server import CUT, HELD, SCENES

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import Event
from steelyard.upstream.openai_answer import Answer
from steelyard.upstream.runs import Runs
from steelyard.upstream.vendor import ANY_VENDOR, Asked

TURNS = [{"role": "user", "content": "hello"}]
ASKED = Asked("u", "m", {"messages": Raw(json.dumps(TURNS).encode()), "stop": Raw(b'["END"]')}, 1000)
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class NoRuns(Runs):
    """Learns nothing, so that every event is read by itself."""

    def learn(self, field: str, data: bytes) -> None:
        return


def heard(reads: Sequence[bytes], runs: Runs) -> list[Event | str]:
    """What an answer says, read by read; the last is what was wrong with it, if anything was."""
    answer = Answer(ANY_VENDOR, ASKED)
    answer._runs = runs
    said: list[Event | str] = []
    try:
        for read in reads:
            try:
                said += answer.hear(read)
            except UpstreamError:
                said += answer.events()
                raise
            if answer.done:
                break
        said.append(answer.end())
    except UpstreamError as error:
        said.append(error.message)
    return said


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(stream) for place in places} - {0}), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def chunk(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], **more}


TEXTS = st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', '"},"logprobs":null', "\n\n", "é", "😀", "data: ", ""])
PLAIN = st.builds(lambda text: chunk({"content": text}), TEXTS)
ODD = st.one_of(
    st.builds(lambda text: chunk({"reasoning_content": text}), TEXTS),
    st.builds(lambda text: chunk({"reasoning": text, "content": None}), TEXTS),
    st.builds(lambda text: chunk({"content": text, "reasoning_content": text}), TEXTS),
    st.builds(lambda text: chunk({"refusal": text}), TEXTS),
    st.builds(lambda text: chunk({"content": text}, id="another"), TEXTS),
    st.builds(lambda text: chunk({"content": text}, usage={"prompt_tokens": 5, "completion_tokens": 7}), TEXTS),
    st.builds(lambda text: chunk({"content": text, "tool_calls": [{"index": 0, "id": "c"}]}), TEXTS),
    st.builds(lambda text: chunk({"content": text}, stop_reason="END"), TEXTS),
    st.builds(lambda text: {"choices": [{"delta": {"content": text}, "stop_reason": "END"}]}, TEXTS),
    st.builds(lambda text: {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [text]}}]}, TEXTS),
    st.builds(lambda text: {"choices": [{"text": text}]}, TEXTS),
    st.sampled_from(
        [chunk({}, "stop"), chunk({"content": "x"}, "length"), {"error": {"message": "no"}}, {"choices": []}]
    ),
)
END = [chunk({}, "stop"), {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49}}]
STREAMS = st.lists(st.one_of(*[PLAIN] * 8, ODD), max_size=30).map(lambda said: [*said, *END])
WRITERS = st.sampled_from([(",", ":"), (", ", ": ")])
FRAMES = st.sampled_from(
    [(b"data: ", b"\n\n"), (b"data:", b"\n\n"), (b"data: ", b"\r\n\r\n"), (b": x\ndata: ", b"\n\n")]
)
PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@given(STREAMS, WRITERS, st.booleans(), FRAMES, PLACES)
def test_runs_say_what_single_events_say(
    said: list[Any], separators: tuple[str, str], ascii_only: bool, frame: tuple[bytes, bytes], places: list[int]
) -> None:
    before, behind = frame
    written = [json.dumps(each, separators=separators, ensure_ascii=ascii_only).encode() for each in said]
    stream = b"".join(before + each + behind for each in [*written, b"[DONE]"])
    reads = cut(stream, places)
    assert heard(reads, Runs()) == heard(reads, NoRuns())


@given(st.lists(st.sampled_from([b"", b"a", b"\\", b'"', b'","', b'\\"', b"\xff", b"\xc3", b"\xa9", b"\\ud83d", b"\n",
                                 b'a"},"x":{"content":"b', b'\\","']), min_size=1, max_size=6), PLACES)  # fmt: skip
@example([b"\xc3", b"\xa9"], [])
@example([b"\\ud83d", b"\\ude00"], [])
@example([b"\\u00", b"e9"], [])
@example([b"a\\", b"\\b"], [])
def test_what_is_no_json_is_told_and_never_shown(middles: list[bytes], places: list[int]) -> None:
    good = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'
    stream = b"".join(good % middle for middle in [b"one", b"two", *middles, b"three"])
    reads = cut(stream, places)
    fast, slow = heard(reads, Runs()), heard(reads, NoRuns())
    assert fast[:-1] == slow[:-1] and type(fast[-1]) is type(slow[-1])


@pytest.mark.parametrize(
    "scene", [scene for scene in sorted(SCENES) if scene not in {"form", "loop", "tools", "schema"}]
)
def test_every_scene_is_read_alike(scene: str) -> None:
    pieces = [piece for piece in SCENES[scene]({"messages": TURNS}) if piece not in {CUT, HELD}]
    stream = b"".join(pieces)
    for size in (7, 150, 400, len(stream)):
        reads = cut(stream, range(0, len(stream), size))
        assert heard(reads, Runs()) == heard(reads, NoRuns())


class Watched(Answer):
    """Keeps what its parser has seen."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__(ANY_VENDOR, ASKED)
        self.seen: list[bytes] = []

    def take(self, data: bytes) -> None:
        self.seen.append(data)
        super().take(data)


@pytest.mark.parametrize(
    ("first", "others", "parsed"),
    [
        ({"role": "assistant", "content": ""}, {}, 2),
        ({"role": "assistant", "content": "a"}, {}, 2),
        ({"role": "assistant", "content": "a"}, {"role": "assistant"}, 2),
        ({"content": "a"}, {}, 1),
    ],
)
def test_of_a_burst_the_parser_sees_the_first_events_only(first: Any, others: Any, parsed: int) -> None:
    """That it is not merely equal, but done: the others are one run."""
    answer = Watched()
    stream = [chunk(first), *(chunk({**others, "content": f" t{n}"}) for n in range(64)), *END]
    [event] = answer.hear(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in stream))
    assert len(answer.seen) == parsed + len(END)
    assert event.text == first["content"] + "".join(f" t{n}" for n in range(64))


@pytest.mark.parametrize("changes", ["id", "usage", "created"])
def test_an_upstream_that_changes_more_than_the_text_is_not_learnt_from_for_ever(changes: str) -> None:
    runs = Runs()
    runs.before, runs.behind = b"data: ", b"\n\n"
    for number in range(100):
        data = json.dumps(chunk({"content": "a"}) | {changes: number}).encode()
        runs.learn("content", data)
    assert runs.take(b"data: " + data + b"\n\n", 0) is None
