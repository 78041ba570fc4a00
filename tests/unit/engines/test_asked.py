"""What is asked of OpenVINO in llama.cpp's dialect: defaults, forms, and refusals by name."""

import json
from typing import Any

import pytest

from steelyard.engines.asked import Refused, Sampling, read_ask

HI = [{"role": "user", "content": "Hi"}]


def read(*, chat: bool = True, **fields: Any) -> Any:
    return read_ask(json.dumps({"messages": HI, "max_tokens": 9, **fields}).encode(), chat=chat)


def test_a_chat_is_plain_chatml() -> None:
    turns = [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": None}]
    assert read(messages=turns).prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_defaults_are_those_of_llama_cpp() -> None:
    assert read().sampling == Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert not read().sampling.greedy
    assert read(temperature=0).sampling.greedy
    assert read(seed=-1).sampling.seed is None
    assert read(seed=-5).sampling.seed == (-5) % 2**63


def test_forms_and_stops() -> None:
    assert read().schema is None
    assert read(response_format={"type": "json_object"}).schema == '{"type":"object"}'
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    assert read(response_format=form).schema == '{"type":"integer"}'
    assert read(response_format={"type": "text"}).schema is None
    assert read(stop="a").stops == ("a",)
    assert read(stop=["a", "b"]).stops == ("a", "b")


def test_prompts_of_completions() -> None:
    assert read(chat=False, prompt="Once").prompt == "Once"
    assert read(chat=False, prompt=[1, 2]).prompt == (1, 2)
    with pytest.raises(Refused, match="'prompt' is missing"):
        read(chat=False)


def test_logprobs_of_chats_and_completions() -> None:
    assert not read(logprobs=False).logprobs
    assert read(logprobs=True, top_logprobs=1).logprobs
    assert read(chat=False, prompt="x", logprobs=1).logprobs
    for asked in ({"logprobs": True, "top_logprobs": 2}, {"chat": False, "prompt": "x", "logprobs": 2}):
        with pytest.raises(Refused, match="'top_logprobs' above 1"):
            read(**asked)


@pytest.mark.parametrize(
    ("name", "neutral", "effective"),
    [
        ("mirostat", 0, 2),
        ("typical_p", 1, 0.5),
        ("xtc_probability", 0, 0.5),
        ("dry_multiplier", 0.0, 0.8),
        ("logit_bias", {}, {"5": 1}),
        ("samplers", [], ["top_k"]),
    ],
)
def test_what_only_llama_cpp_has_is_refused_by_name_unless_it_does_nothing(
    name: str, neutral: Any, effective: Any
) -> None:
    assert read(**{name: neutral}).sampling == Sampling()
    with pytest.raises(Refused, match=f"'{name}' is not supported"):
        read(**{name: effective})


def test_what_cannot_be_read_is_told() -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read(temperature="hot")
    with pytest.raises(Refused, match="'repeat_penalty' must be above 0"):
        read(repeat_penalty=0)
