"""openai-python in front of the emulated vendors whose customers are told to use it."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.vendors.running import Running, running
from tests.vendors.sdks import Sdk, sdk

from steelyard.emulators.chat import KEY
from steelyard.emulators.dashscope import DashScope
from steelyard.emulators.gemini import Gemini
from steelyard.emulators.stepfun import StepFun


@pytest.fixture(scope="module")
def openai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    with sdk("by_openai", tmp_path_factory.mktemp("sdk")) as started:
        yield started


@pytest.fixture(scope="module")
def stepfun() -> Iterator[Running]:
    with running(StepFun()) as started:
        yield started


@pytest.fixture(scope="module")
def gemini() -> Iterator[Running]:
    with running(Gemini()) as started:
        yield started


@pytest.fixture(scope="module")
def compatible() -> Iterator[Running]:
    with running(DashScope()) as started:
        yield started


def asking(scene: str, model: str = "a-model", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"scene: {scene}"}], **fields}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def test_stepfun_is_understood(openai: Sdk, stepfun: Running) -> None:
    (whole,) = openai.ask(stepfun.address, KEY, **asking("hello"))["said"]
    assert whole["choices"][0]["message"]["content"] == "Hello"
    chunks = openai.ask(stepfun.address, KEY, **asking("reasoning", **STREAM))["said"]
    assert "".join(chunk["choices"][0]["delta"].get("reasoning", "") for chunk in chunks if chunk["choices"])
    assert chunks[-1]["usage"]["cached_tokens"] == 0
    assert "step-3.5-flash" in [model["id"] for model in openai.ask(stepfun.address, KEY, call="models")["said"]]


@pytest.mark.parametrize(
    ("scene", "status"), [("no_money", 402), ("content", 451), ("bad_request", 400), ("rate_limited", 429)]
)
def test_stepfuns_refusals_have_no_code(openai: Sdk, stepfun: Running, scene: str, status: int) -> None:
    error = openai.ask(stepfun.address, KEY, **asking(scene))["error"]
    assert (error["status_code"], error["code"]) == (status, None)


def test_gemini_is_understood(openai: Sdk, gemini: Running) -> None:
    (whole,) = openai.ask(gemini.address, KEY, **asking("hello"))["said"]
    assert whole["choices"][0]["message"]["content"] == "Hello"
    chunks = openai.ask(gemini.address, KEY, **asking("reasoning", **STREAM, reasoning_effort="low"))["said"]
    usage = chunks[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + 3, (
        "thoughts, in the total only"
    )


@pytest.mark.parametrize(("scene", "status"), [("auth", 400), ("no_money", 400), ("quota", 429), ("server", 503)])
def test_geminis_refusals_come_in_a_list(openai: Sdk, gemini: Running, scene: str, status: int) -> None:
    error = openai.ask(gemini.address, KEY, **asking(scene))["error"]
    assert (error["status_code"], isinstance(error["body"], list)) == (status, True)


def test_gemini_refuses_a_call_without_its_thought(openai: Sdk, gemini: Running) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]
    asked = {"model": "gemini-3-pro", "messages": [*turns, {"role": "tool", "tool_call_id": "a", "content": "4"}]}
    assert "thought_signature" in openai.ask(gemini.address, KEY, **asked)["error"]["body"][0]["error"]["message"]
    call["extra_content"] = {"google": {"thought_signature": "signed:a"}}
    assert openai.ask(gemini.address, KEY, **asked)["said"]


def test_dashscopes_compatible_dialect_is_understood(openai: Sdk, compatible: Running) -> None:
    asked = asking("reasoning", stream=True, stream_options={"include_usage": True})
    chunks = openai.ask(compatible.address, KEY, **asked, extra_body={"enable_thinking": True})["said"]
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks if chunk["choices"]) == "42"
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    (whole,) = openai.ask(compatible.address, KEY, **asking("hello"))["said"]
    assert whole["choices"][0]["message"]["content"] == "Hello"
    assert not any(
        chunk["usage"] for chunk in openai.ask(compatible.address, KEY, **asking("hello", stream=True))["said"]
    )


@pytest.mark.parametrize(
    ("scene", "kind", "code"),
    [
        ("no_money", "BadRequestError", "Arrearage"),
        ("auth", "AuthenticationError", "invalid_api_key"),
        ("quota", "RateLimitError", "insufficient_quota"),
        ("model_missing", "NotFoundError", "model_not_found"),
    ],
)
def test_dashscopes_refusals_are_errors_of_their_class(
    openai: Sdk, compatible: Running, scene: str, kind: str, code: str
) -> None:
    error = openai.ask(compatible.address, KEY, **asking(scene))["error"]
    assert (error["kind"], error["code"]) == (kind, code)


def test_a_model_that_only_thinks_in_streams_says_so(openai: Sdk, compatible: Running) -> None:
    assert "stream" in openai.ask(compatible.address, KEY, **asking("hello", model="qwq-plus"))["error"]["text"]
    assert openai.ask(compatible.address, KEY, **asking("hello", model="qwq-plus", stream=True))["said"]
