"""Whatever a vendor says, in whatever form: it is read, or an error of the upstream with a class."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault, fault_of
from steelyard.kernel.quantities import Usage
from steelyard.upstream.ark import ARK
from steelyard.upstream.dashscope import DASHSCOPE
from steelyard.upstream.dashscope_native_answer import Answer as NativeAnswer
from steelyard.upstream.deepseek import DEEPSEEK
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.gemini import GEMINI
from steelyard.upstream.minimax import MINIMAX
from steelyard.upstream.moonshot import MOONSHOT
from steelyard.upstream.openai_answer import Answer
from steelyard.upstream.openai_counts import Counts
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.openai_models import OPENAI
from steelyard.upstream.openai_whole import WholeAnswer
from steelyard.upstream.stepfun import STEPFUN
from steelyard.upstream.tally import Tally
from steelyard.upstream.thinking import WORDS
from steelyard.upstream.vendor import ANY_VENDOR, Asked, Vendor
from steelyard.upstream.zhipu import ZHIPU

VENDORS = [ANY_VENDOR, DEEPSEEK, ZHIPU, MOONSHOT, MINIMAX, ARK, DASHSCOPE, STEPFUN, GEMINI, OPENAI]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(0, 2) | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "code", "message", "status_code", "usage", "details"]), each)
    ),
    max_leaves=6,
)
ASKED = Asked("u", "m", {"messages": Raw(b"[]")}, 9)


@settings(max_examples=60)
@given(
    st.sampled_from([200, 400, 429, 500]),
    st.sampled_from(VENDORS),
    st.sampled_from(["error", "base_resp", "message", "code", "detail"]),
    JSON,
)
def test_a_refusal_of_any_form_is_one_error(status: int, vendor: Vendor, name: str, said: Any) -> None:
    for body in ({name: said}, said, [{name: said}]):
        error = refusal("u", json.dumps(body).encode(), status, b"", vendor.faults)
        assert isinstance(error.fault, Fault) and error.message


@settings(max_examples=60)
@given(
    st.sampled_from(VENDORS),
    st.sampled_from(["choices", "usage", "error", "base_resp", "message"]),
    st.sampled_from(["delta", "usage", "reasoning_details", "content", "finish_reason", "tool_calls"]),
    JSON,
)
def test_a_chunk_of_any_form_is_read_or_an_error(vendor: Vendor, outer: str, inner: str, said: Any) -> None:
    for chunk in ({outer: said}, {"choices": [{inner: said}]}, {"choices": [{"delta": {inner: said}}]}):
        answer = Answer(vendor, ASKED)
        try:
            answer.take(json.dumps(chunk).encode())
            list(answer.events())
            answer.end()
        except UpstreamError:
            continue


@settings(max_examples=60)
@given(
    st.sampled_from(["output", "usage", "code", "message"]),
    st.sampled_from(["choices", "text", "finish_reason", "message", "content", "tool_calls", "reasoning_content"]),
    JSON,
)
def test_so_is_an_event_of_dashscopes_own_api(outer: str, inner: str, said: Any) -> None:
    message = {"output": {"choices": [{"message": {inner: said}, "finish_reason": "stop"}]}}
    for event in ({outer: said}, {"output": {inner: said}}, {"output": {"choices": [{inner: said}]}}, message):
        heard = NativeAnswer(ASKED)
        try:
            heard.take(json.dumps(event).encode())
            list(heard.events())
            heard.end()
        except UpstreamError as error:
            assert isinstance(error.fault, Fault) and error.message


@settings(max_examples=60)
@given(st.sampled_from(VENDORS), st.dictionaries(st.sampled_from([*sorted(WORDS), "user", "flavour"]), JSON))
def test_what_is_wanted_is_sent_or_refused_by_name(vendor: Vendor, fields: dict[str, Any]) -> None:
    params = {"messages": Raw(b"[]")} | {n: Raw(msgspec.json.encode(v)) for n, v in fields.items() if v is not None}
    try:
        made = vendor.fields(Asked("u", "m", params, 9))
    except UpstreamError as error:
        assert error.status == 400 and error.param in fields
    else:
        sent = json.loads(msgspec.json.encode(made))
        assert sent["model"] == "m" and sent["stream"] is True
        assert None not in [value for name, value in sent.items() if name not in fields]


COUNT = st.none() | st.integers(-2, 60)
BUCKETS = st.fixed_dictionaries(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "prompt_cache_hit_tokens": COUNT,
        "cached_tokens": COUNT,
        "reasoning_tokens": COUNT,
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({"cached_tokens": COUNT, "cache_creation_input_tokens": COUNT}),
        "completion_tokens_details": st.none() | st.fixed_dictionaries({"reasoning_tokens": COUNT}),
    }
)


@given(BUCKETS, st.integers(0, 200))
def test_thoughts_that_stand_in_the_total_only_are_generated_too(counts: dict[str, Any], total: int) -> None:
    told = msgspec.convert({**counts, "total_tokens": total}, Counts)
    found = told.usage(Tally("u", int), hides_thoughts=True)
    shown = told.usage(Tally("u", int)) or Usage()
    if found is not None:
        assert (found.prompt, found.generated) == (shown.prompt, max(shown.generated, total - shown.prompt))
        assert found.reasoning >= found.generated - shown.generated and found.output >= 0


@given(BUCKETS)
def test_buckets_are_disjoint_and_add_up_to_what_the_vendor_told(counts: dict[str, Any]) -> None:
    found = msgspec.convert(counts, Counts).usage(Tally("u", int))
    prompt, generated = max(0, counts["prompt_tokens"] or 0), max(0, counts["completion_tokens"] or 0)
    if found is None:
        assert (prompt, generated) == (0, 0)
        return
    assert (found.prompt, found.generated) == (prompt, generated)
    assert min(found.input, found.cached_input, found.cache_write, found.output, found.reasoning) >= 0


def test_the_most_exact_line_of_a_table_counts() -> None:
    below = FaultTable({Fault.RATE_LIMITED: "429/*", Fault.BAD_REQUEST: "400/*", Fault.AUTH: "*/9"})
    table = FaultTable(
        {Fault.QUOTA: "429/7", Fault.CONTENT: "*/7", Fault.MODEL_MISSING: "*/Gone.*", Fault.NO_MONEY: "*/Gone.Broke"},
        below,
        {"no money": Fault.NO_MONEY},
    )
    assert table.of(429, 7) is Fault.QUOTA, "status and code"
    assert table.of(400, "7") is Fault.CONTENT, "the code, as a number or as a text"
    assert table.of(400, "Gone.Away") is Fault.MODEL_MISSING, "the beginning of the code"
    assert table.of(400, "Gone.Broke") is Fault.NO_MONEY, "the whole code before its beginning"
    assert table.of(400, None, "", 9) is Fault.AUTH, "of the table below, and by the first code that is known"
    assert table.of(400, "?", message="There is No Money left") is Fault.NO_MONEY, "a phrase before the status"
    assert table.of(400, 7, message="no money") is Fault.CONTENT, "but not before a code"
    assert (table.of(429, "?"), table.of(418), table.of(0)) == (Fault.RATE_LIMITED, Fault.SERVER, Fault.SERVER)


@pytest.mark.parametrize(
    ("total", "output", "reasoning"),
    [
        (135, 9, 94),  # xAI's own example: what was thought stands beside the completion
        (41, 0, 9),  # the dialect's: it is a part of it, and cannot be more
        (None, 0, 9),
        (130, 0, 9),  # a total of something else
    ],
)
def test_reasoning_is_beside_the_completion_where_the_total_says_so(
    total: int | None, output: int, reasoning: int
) -> None:
    told = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": total}
    details = {"completion_tokens_details": {"reasoning_tokens": 94}}
    found = msgspec.convert({**told, **details}, Counts).usage(Tally("u", int))
    assert found is not None
    assert (found.input, found.output, found.reasoning) == (32, output, reasoning)


@pytest.mark.parametrize("vendor", [GEMINI, ZHIPU, DEEPSEEK, ANY_VENDOR], ids=["gemini", "zhipu", "deepseek", "any"])
@pytest.mark.parametrize(
    ("said", "end"),
    [("content_filter: SAFETY", "content_filter"), ("stop", "stop"), ("sensitive", "content_filter"), ("x: y", "x")],
)
def test_an_end_is_told_without_the_reason_behind_its_colon(vendor: Vendor, said: str, end: str) -> None:
    """Gemini says one; client libraries take no word but the dialect's."""
    for body in ({"delta": {"content": "a"}}, {"message": {"content": "a"}}):
        answer = Answer(vendor, Asked("u", "m", {}, 9))
        answer.take(json.dumps({"choices": [{**body, "finish_reason": said}]}).encode())
        assert answer.end().finish == end


def test_a_call_that_went_wrong_at_gemini_is_no_answer() -> None:
    choice = {"message": {"content": None}, "finish_reason": "function_call_filter: MALFORMED_FUNCTION_CALL"}
    body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
    for heard in (Answer(GEMINI, Asked("u", "m", {}, 9)).take, WholeAnswer(Asked("u", "m", {}, 9), GEMINI).hear_whole):
        with pytest.raises(UpstreamError, match="MALFORMED") as caught:
            heard(body)
        assert caught.value.retryable


def test_every_fault_is_somebodys() -> None:
    for fault in Fault:
        assert not (fault.is_customers and fault.is_ours)
    assert [fault_of(status) for status in (0, 400, 404, 429, 500, 529)] == [
        *(Fault.SERVER, Fault.BAD_REQUEST, Fault.BAD_REQUEST, Fault.RATE_LIMITED, Fault.SERVER, Fault.RATE_LIMITED)
    ]
