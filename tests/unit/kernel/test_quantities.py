from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.chat_answer import usage_object
from steelyard.kernel.quantities import Meter, Usage

counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, counts, counts)


@given(usages, usages)
def test_usage_adds_bucket_by_bucket(one: Usage, other: Usage) -> None:
    both = one + other
    for meter in Meter:
        assert both.of(meter) == one.of(meter) + other.of(meter)
    assert both.total == one.total + other.total


@given(usages)
def test_the_openai_projection_re_adds_to_the_same_total(usage: Usage) -> None:
    shown = usage_object(usage)
    assert shown["total_tokens"] == shown["prompt_tokens"] + shown["completion_tokens"] == usage.total
    assert shown["prompt_cache_hit_tokens"] + shown["prompt_cache_miss_tokens"] == shown["prompt_tokens"]
    assert shown["prompt_tokens_details"]["cached_tokens"] == usage.cached_input
