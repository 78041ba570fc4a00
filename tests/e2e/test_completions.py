"""The old completions with an unchanged client at the real engine, whose own counts are wrong for lists of prompts."""

import openai
import pytest
from tests.platform import ALTERNATIVES, Platform

MODEL = "smollm2-135m-instruct"


def metered(platform: Platform, request_id: str) -> tuple[int, int]:
    receipt = platform.posted_receipt(request_id)
    return receipt["prompt_tokens"], receipt["output_tokens"]


@pytest.mark.parametrize(
    ("prompt", "n", "answers"),
    [
        ("The capital of France is", 1, 1),
        (["The capital of France is", "One two three"], 2, 4),
        ([504, 3575, 282], 1, 1),
        ([[504, 3575], [504]], 1, 2),
    ],
)
def test_every_sequence_is_metered(client, platform: Platform, prompt, n: int, answers: int) -> None:
    raw = client.completions.with_raw_response.create(model=MODEL, prompt=prompt, n=n, max_tokens=2, temperature=0)
    answer = raw.parse()
    assert [choice.index for choice in answer.choices] == list(range(answers))
    assert answer.usage.completion_tokens == 2 * answers, "the engine's own usage would count one sequence"
    if isinstance(prompt, str):
        assert "Paris" in answer.choices[0].text
    expected = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert metered(platform, raw.headers["x-request-id"]) == expected


def test_a_streamed_list_has_one_usage_and_its_log_probabilities(client, platform: Platform) -> None:
    stream = client.completions.create(
        model=MODEL, prompt=["One two", "Red green"], max_tokens=3, temperature=0, logprobs=ALTERNATIVES, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    request_id = stream.response.headers["x-request-id"]
    chunks = list(stream)
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.completion_tokens == 6
    tokens = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    assert sum(len(one.tokens) for one in tokens) == 6
    assert all(len(top) == ALTERNATIVES for one in tokens for top in one.top_logprobs)
    assert metered(platform, request_id) == (usage.prompt_tokens, usage.completion_tokens)


def test_token_ids_the_model_does_not_have_are_400_and_free(client) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt=[99_999_999], max_tokens=2)
