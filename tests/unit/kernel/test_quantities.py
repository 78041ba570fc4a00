import json

from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway import chat_answer, messages_answer, responses_answer
from steelyard.kernel.quantities import Meter, Usage

counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts, counts)


@given(usages, usages)
def test_usage_adds_bucket_by_bucket(one: Usage, other: Usage) -> None:
    both = one + other
    for meter in set(Meter) - {Meter.CALL}:  # the sum of parts of a request is still one request
        assert both.of(meter) == one.of(meter) + other.of(meter)
    assert both.call == max(one.call, other.call)
    assert both.total == one.total + other.total


@given(st.builds(Usage, *[counts] * len(Usage.__struct_fields__)))
def test_one_look_at_the_projections_sees_what_each_says(usage: Usage) -> None:
    assert usage.projected == (usage.prompt, usage.generated, usage.from_cache)


@given(usages)
def test_the_openai_projection_re_adds_to_the_same_total(usage: Usage) -> None:
    shown = json.loads(chat_answer.usage_shown(usage, (), None))
    assert shown["total_tokens"] == shown["prompt_tokens"] + shown["completion_tokens"] == usage.total
    assert shown["prompt_cache_hit_tokens"] + shown["prompt_cache_miss_tokens"] == shown["prompt_tokens"]
    details, said = shown["prompt_tokens_details"], shown["completion_tokens_details"]
    assert (details["cached_tokens"], details["cache_write_tokens"]) == (usage.cached_input, usage.cache_write)
    assert shown["prompt_tokens"] - sum(details.values()) == usage.input
    assert shown["completion_tokens"] - said["reasoning_tokens"] == usage.output


@given(usages)
def test_the_projection_of_responses_re_adds_to_the_same_total(usage: Usage) -> None:
    shown = responses_answer.usage_object(usage)
    assert shown["total_tokens"] == shown["input_tokens"] + shown["output_tokens"] == usage.total
    assert shown["input_tokens"] - sum(shown["input_tokens_details"].values()) == usage.input
    assert shown["output_tokens"] - shown["output_tokens_details"]["reasoning_tokens"] == usage.output


@given(usages)
def test_the_anthropic_projection_re_adds_to_the_same_total(usage: Usage) -> None:
    shown = messages_answer.usage_object(usage)
    prompt = [shown[name] for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")]
    assert prompt == [usage.input, usage.cache_write, usage.cached_input]
    assert sum(prompt) + shown["output_tokens"] == usage.total
    assert shown["output_tokens"] - shown["output_tokens_details"]["thinking_tokens"] == usage.output
