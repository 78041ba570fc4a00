"""DashScope's own SDK in front of its emulated native API: it understands every answer as it would the vendor's."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.vendors.running import Running, running
from tests.vendors.sdks import Sdk, sdk

from steelyard.emulators.chat import KEY
from steelyard.emulators.dashscope_native import DashScopeNative

STREAM = {"stream": True, "result_format": "message"}


@pytest.fixture(scope="module")
def dashscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    with sdk("by_dashscope", tmp_path_factory.mktemp("sdk")) as started:
        yield started


@pytest.fixture(scope="module")
def native() -> Iterator[Running]:
    with running(DashScopeNative()) as started:
        yield started


def asking(scene: str, model: str = "qwen-plus", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"scene: {scene}"}], **fields}


def texts(said: list[dict[str, Any]], name: str = "content") -> list[str]:
    return [each["output"]["choices"][0]["message"].get(name) or "" for each in said]


def test_an_answer_and_its_counts_are_understood(dashscope: Sdk, native: Running) -> None:
    (said,) = dashscope.ask(native.address, KEY, **asking("hello", result_format="message"))["said"]
    assert (said["status_code"], texts([said])) == (200, ["Hello"])
    assert said["usage"]["output_tokens"] == 2 and said["request_id"]
    (said,) = dashscope.ask(native.address, KEY, **asking("hello"))["said"]
    assert said["output"]["text"] == "Hello", "without a format it is a text"


def test_a_stream_repeats_the_text_unless_it_is_asked_for_what_is_new(dashscope: Sdk, native: Running) -> None:
    said = dashscope.ask(native.address, KEY, **asking("hello", **STREAM, incremental_output=True))["said"]
    assert texts(said) == ["Hel", "lo", ""]
    said = dashscope.ask(native.address, KEY, **asking("hello", **STREAM))["said"]
    assert texts(said) == ["Hel", "Hello", "Hello"]
    assert [each["output"]["choices"][0]["finish_reason"] for each in said] == ["null", "null", "stop"]
    assert [each["usage"]["output_tokens"] for each in said] == [1, 2, 2]


def test_reasoning_is_understood(dashscope: Sdk, native: Running) -> None:
    asked = asking("reasoning", **STREAM, incremental_output=True, enable_thinking=True)
    said = dashscope.ask(native.address, KEY, **asked)["said"]
    assert ("".join(texts(said)), "".join(texts(said, "reasoning_content"))) == ("42", "Let me see.")
    assert said[-1]["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    (said,) = dashscope.ask(native.address, KEY, **asking("reasoning", enable_thinking=True))["said"]
    assert said["code"] == "InvalidParameter", "thinking is for streams of what is new"


def test_the_path_for_parts_is_understood(dashscope: Sdk, native: Running) -> None:
    turns = [{"role": "user", "content": [{"image": "https://e.com/a.png"}, {"text": "scene: hello"}]}]
    asked = {"model": "qwen-vl-max", "messages": turns, "stream": True, "incremental_output": True}
    said = dashscope.ask(native.address, KEY, call="multimodal", **asked)["said"]
    assert texts(said) == [[{"text": "Hel"}], [{"text": "lo"}], ""]


def test_calls_are_understood(dashscope: Sdk, native: Running) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    (said,) = dashscope.ask(native.address, KEY, **asking("tools", result_format="message", tools=[tool]))["said"]
    (call,) = said["output"]["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("weather", "{}")


@pytest.mark.parametrize(
    ("scene", "status", "code"),
    [
        ("no_money", 400, "Arrearage"),
        ("auth", 401, "InvalidApiKey"),
        ("rate_limited", 429, "Throttling.RateQuota"),
        ("content", 400, "DataInspectionFailed"),
        ("server", 500, "InternalError.Algo"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_refusal_is_an_object(
    dashscope: Sdk, native: Running, scene: str, status: int, code: str, is_stream: bool
) -> None:
    (said,) = dashscope.ask(native.address, KEY, **asking(scene, stream=is_stream))["said"]
    assert (said["status_code"], said["code"], said["output"]) == (status, code, None)


def test_an_error_within_a_stream_is_the_last_object(dashscope: Sdk, native: Running) -> None:
    said = dashscope.ask(native.address, KEY, **asking("error", **STREAM))["said"]
    assert [each["code"] for each in said] == ["", "InternalError.Algo"]


def test_nothing_is_anywhere_else(dashscope: Sdk, native: Running) -> None:
    (said,) = dashscope.ask(f"{native.address}/elsewhere", KEY, **asking("hello"))["said"]
    assert (said["status_code"], said["code"]) == (404, "")
