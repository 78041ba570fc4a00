"""An answer in one piece is the same event, read as it stands or as a stream of one chunk."""

from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.minimax import MINIMAX
from steelyard.upstream.openai_models import OPENAI
from steelyard.upstream.openai_whole import WholeAnswer
from steelyard.upstream.vendor import ANY_VENDOR, Asked, Vendor

ASKED = Asked("u", "m", {"messages": Raw(b"[" + b" " * 38 + b"]"), "stop": Raw(b'["END"]')}, 50, True)
VENDORS = (ANY_VENDOR, OPENAI, MINIMAX, Vendor(hides_thoughts=True), Vendor(may_repeat=True))
PLAIN = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 20}

texts = st.sampled_from([None, "", "word", "naïve"])
counts = st.none() | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), st.integers(-3, 30)),
        "cached_tokens": st.integers(-1, 9),
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": st.integers(0, 40)}),
        "completion_tokens_details": st.none() | st.fixed_dictionaries({"reasoning_tokens": st.integers(-2, 40)}),
    },
)
message = st.none() | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("content", "refusal", "reasoning", "reasoning_content", "role"), texts),
        "reasoning_details": st.sampled_from([None, [], [{"text": "hm"}], "odd"]),
        "tool_calls": st.sampled_from([None, [], [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]]),
    },
)
choice = st.fixed_dictionaries(
    {"finish_reason": st.sampled_from([None, "", "stop", "length", "eos", "abort", "sensitive"])},
    optional={
        "message": message,
        "delta": message,
        "text": texts,
        "logprobs": st.sampled_from([None, {}, {"content": [{"token": "a"}]}]),
        "stop_reason": st.sampled_from([None, "END", "other", 7]),
        "matched_stop": st.sampled_from([None, "END"]),
        "usage": counts,
    },
)
answer = st.fixed_dictionaries(
    {"choices": st.none() | st.lists(choice, max_size=2)},
    optional={
        "usage": counts,
        "error": st.sampled_from([None, "no", {"message": "no"}]),
        "base_resp": st.sampled_from([None, {"status_code": 0}, {"status_code": 1002, "status_msg": "busy"}]),
    },
)


def both(body: bytes, vendor: Vendor) -> tuple[object, object]:
    """What is made of it, as it stands and as a stream."""
    made: list[object] = []
    for hear in (WholeAnswer.hear_whole, WholeAnswer.as_stream):
        try:
            made.append(hear(WholeAnswer(ASKED, vendor), body))
        except UpstreamError as error:
            made.append((type(error), str(error), error.retryable, error.fault, error.status))
    return made[0], made[1]


@given(answer, st.sampled_from(VENDORS))
@settings(max_examples=300, deadline=None)
def test_it_says_what_a_stream_of_one_chunk_says(said: dict[str, Any], vendor: Vendor) -> None:
    whole, stream = both(msgspec.json.encode(said), vendor)
    assert whole == stream


CHANGES: tuple[dict[str, Any], ...] = (
    {},
    *({"message": {"content": "word", name: "hm"}} for name in ("refusal", "reasoning", "reasoning_content")),
    {"message": {"content": "word", "reasoning_details": [{"text": "hm"}]}},
    {"message": {"content": "word", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}},
    {"message": {"content": ""}},
    {"message": {"content": None}, "text": "word"},
    {"message": None},
    {"delta": {"content": "other"}},
    {"logprobs": {"content": [{"token": "a"}]}},
    {"stop_reason": "END"},
    {"matched_stop": "END"},
    {"usage": {"prompt_tokens": 1, "completion_tokens": 1}},
    {"finish_reason": None},
    {"finish_reason": "abort"},
)
USED: tuple[dict[str, Any] | None, ...] = (
    PLAIN,
    None,
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": limits.TOKENS_TOLD_MAX + 1, "completion_tokens": 1},
    {"prompt_tokens": limits.TOKENS_TOLD_MAX, "completion_tokens": limits.TOKENS_TOLD_MAX},
    {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 3}},
)


@pytest.mark.parametrize("vendor", VENDORS, ids=["any", "openai", "minimax", "hides", "repeats"])
def test_whatever_else_it_says_is_not_lost(vendor: Vendor) -> None:
    plain = {"index": 0, "message": {"role": "assistant", "content": "word"}, "finish_reason": "stop"}
    for change, used in product(CHANGES, USED):
        whole, stream = both(msgspec.json.encode({"choices": [plain | change], "usage": used}), vendor)
        assert whole == stream, (change, used)


@pytest.mark.parametrize("body", [b"", b"[DONE]", b"{", b"[]", b"{}", b'{"choices":[]}', b'{"message":"no"}', b"\xff"])
def test_what_is_no_answer_is_the_same_error(body: bytes) -> None:
    whole, stream = both(body, ANY_VENDOR)
    assert whole == stream and isinstance(whole, tuple)
