"""What becomes of every field of a chat request: tried one by one, and compared with the table in the documentation."""

import json
from pathlib import Path
from typing import Any

import openai.types.chat.completion_create_params as client
import pytest

from steelyard.gateway.chat_request import parse_chat
from steelyard.kernel.errors import CallerError

PAGE = Path(__file__).parents[3] / "docs/reference/openai.md"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
TRIED: dict[str, dict[str, Any]] = {
    "audio": {"audio": {"voice": "a", "format": "mp3"}},
    "frequency_penalty": {"frequency_penalty": 1},
    "function_call": {"function_call": "auto"},
    "functions": {"functions": [{"name": "f"}]},
    "logit_bias": {"logit_bias": {"1": 5}},
    "logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "max_tokens": {"max_tokens": 5},
    "messages": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    "metadata": {"metadata": {"a": "b"}},
    "modalities": {"modalities": ["text"]},
    "modalities with audio": {"modalities": ["text", "audio"]},
    "model": {"model": "other"},
    "moderation": {"moderation": {"model": "omni-moderation-latest"}},
    "n": {"n": 2},
    "parallel_tool_calls": {"parallel_tool_calls": True} | TOOLS,
    "prediction": {"prediction": {"type": "content", "content": "x"}},
    "presence_penalty": {"presence_penalty": 1},
    "prompt_cache_key": {"prompt_cache_key": "x"},
    "prompt_cache_options": {"prompt_cache_options": {"mode": "explicit"}},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "reasoning_effort": {"reasoning_effort": "low"},
    "response_format": {"response_format": {"type": "json_object"}},
    "safety_identifier": {"safety_identifier": "x"},
    "seed": {"seed": 1},
    "service_tier": {"service_tier": "auto"},
    "stop": {"stop": ["x", "y"]},
    "store": {"store": True},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "temperature": {"temperature": 0.5},
    "tool_choice": {"tool_choice": "required"} | TOOLS,
    "tools": TOOLS,
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "top_p": {"top_p": 0.5},
    "user": {"user": "x"},
    "verbosity": {"verbosity": "low"},
    "web_search_options": {"web_search_options": {}},
}
BESIDE: dict[str, dict[str, Any]] = {
    "parallel_tool_calls": TOOLS,
    "tool_choice": TOOLS,
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
}


def fate(label: str) -> str:
    """By what the code does with it."""
    name = label.split(maxsplit=1)[0]
    before = parse_chat(json.dumps(HELLO | BESIDE.get(label, {})).encode(), bytes(16))
    try:
        after = parse_chat(json.dumps(HELLO | TRIED[label]).encode(), bytes(16))
    except CallerError as error:
        assert (error.status, error.param) == (400, name)
        return "refused"
    if name in after.unknown:
        return "handed on, named" if name in after.order.params else "without effect, named"
    return "without effect" if after == before else "works"


def documented() -> dict[str, str]:
    section = PAGE.read_text().partition("### Every field of OpenAI's reference")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {field.replace("`", "").strip(): what.strip() for cells in rows for field, what in [cells[:2]]}


def test_every_field_that_the_client_knows_is_tried() -> None:
    known = {*client.CompletionCreateParamsBase.__annotations__, "stream"}
    assert known <= {label.split()[0] for label in TRIED}


@pytest.mark.parametrize("label", TRIED)
def test_the_page_says_what_becomes_of_a_field(label: str) -> None:
    assert documented()[label] == fate(label)


def test_the_page_has_no_other_fields() -> None:
    assert documented().keys() == TRIED.keys()


def test_fields_of_the_old_kind_say_what_to_send_instead() -> None:
    for name, instead in (("functions", "'tools'"), ("function_call", "'tool_choice'")):
        with pytest.raises(CallerError) as caught:
            parse_chat(json.dumps(HELLO | TRIED[name]).encode(), bytes(16))
        assert instead in caught.value.message


def test_no_functions_are_none() -> None:
    """Some frameworks send the list whatever is in it."""
    assert parse_chat(json.dumps(HELLO | {"functions": []}).encode(), bytes(16)).unknown == ()
