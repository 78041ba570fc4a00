"""Volcengine's own client in front of the emulated Ark: it understands every answer as it would Ark's."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.vendors.running import Running, running
from tests.vendors.sdks import Sdk, sdk

from steelyard.emulators.ark import Ark
from steelyard.emulators.chat import KEY

MODEL = "doubao-seed-2-1-pro"


@pytest.fixture(scope="module")
def ark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    with sdk("by_ark", tmp_path_factory.mktemp("sdk")) as started:
        yield started


@pytest.fixture(scope="module")
def vendor() -> Iterator[Running]:
    with running(Ark()) as started:
        yield started


def asking(scene: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"scene: {scene}"}], **fields}


def test_an_answer_and_its_counts_are_understood(ark: Sdk, vendor: Running) -> None:
    (said,) = ark.ask(vendor.address, KEY, **asking("reasoning", max_completion_tokens=50))["said"]
    message = said["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("42", "Let me see.")
    assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert vendor.body["thinking"] is None and vendor.body["tools"] is None, "every field, null where nothing is said"


def test_a_stream_is_understood(ark: Sdk, vendor: Running) -> None:
    asked = asking("reasoning", stream=True, stream_options={"include_usage": True}, thinking={"type": "enabled"})
    chunks = ark.ask(vendor.address, KEY, **asked)["said"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta["content"] or "" for delta in deltas) == "42"
    assert "".join(delta["reasoning_content"] or "" for delta in deltas) == "Let me see."
    usages = [chunk["usage"] for chunk in chunks if chunk["usage"]]
    assert [usage["completion_tokens"] for usage in usages] == [4]
    assert chunks[-1]["service_tier"] == "default"


def test_what_only_this_vendor_says_is_understood(ark: Sdk, vendor: Running) -> None:
    *_, last = ark.ask(vendor.address, KEY, **asking("moderated", stream=True))["said"]
    (choice,) = last["choices"]
    assert (choice["finish_reason"], choice["moderation_hit_type"]) == ("content_filter", "severe_violation")
    chunks = ark.ask(vendor.address, KEY, **asking("encrypted", stream=True))["said"]
    assert any(chunk["choices"][0]["delta"]["encrypted_content"] for chunk in chunks)


def test_calls_are_understood(ark: Sdk, vendor: Running) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    chunks = ark.ask(vendor.address, KEY, **asking("tools", stream=True, tools=[tool]))["said"]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"]["tool_calls"] or ()]
    assert (calls[0]["function"]["name"], "".join(call["function"]["arguments"] for call in calls)) == ("weather", "{}")


@pytest.mark.parametrize(
    ("scene", "kind", "code"),
    [
        ("auth", "ArkAuthenticationError", "AuthenticationError"),
        ("no_money", "ArkPermissionDeniedError", "AccountOverdueError"),
        ("model_missing", "ArkNotFoundError", "InvalidEndpointOrModel.NotFound"),
        ("rate_limited", "ArkRateLimitError", "RateLimitExceeded.EndpointTPMExceeded"),
        ("content", "ArkBadRequestError", "InputTextSensitiveContentDetected"),
        ("server", "ArkInternalServerError", "InternalServiceError"),
    ],
)
def test_a_refusal_is_the_error_of_its_class(ark: Sdk, vendor: Running, scene: str, kind: str, code: str) -> None:
    error = ark.ask(vendor.address, KEY, **asking(scene))["error"]
    assert (error["kind"], error["code"]) == (kind, code)


def test_an_error_line_within_a_stream_is_raised(ark: Sdk, vendor: Running) -> None:
    answer = ark.ask(vendor.address, KEY, **asking("error", stream=True))
    assert answer["said"], "what came before it"
    assert (answer["error"]["kind"], answer["error"]["code"]) == ("ArkAPIError", "InternalServiceError")


def test_another_key_is_refused(ark: Sdk, vendor: Running) -> None:
    assert ark.ask(vendor.address, "another", **asking("hello"))["error"]["status_code"] == 401
