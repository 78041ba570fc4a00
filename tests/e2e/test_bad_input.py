"""Whatever comes in: a clear 4xx in the dialect's shape, nothing charged, no worker harmed."""

import http.client
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.bodies import JSON, changed, encoded, places
from tests.platform import Platform, wait_for

MODEL = "smollm2-135m-instruct"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 1,
    "tools": [TOOL],
    "response_format": {"type": "text"},
    "stop": ["x"],
    "logit_bias": {"1": 1},
}
OLD: dict[str, Any] = {"model": MODEL, "prompt": "Hi", "max_tokens": 1}
FUZZ_S = 5  # no example is begun after this


def post(platform: Platform, key: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=60)
    connection.request("POST", path, body, {"authorization": f"Bearer {key}", "content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def with_tool(parameters: Any) -> dict[str, Any]:
    return {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


BAD = [
    b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "\xff"}]}',
    b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 9999,
    json.dumps({**CHAT, "max_tokens": -5}).encode(),
    json.dumps({**CHAT, "messages": [{"role": "user", "content": "x"}] * 10_001}).encode(),
    json.dumps({**CHAT, "messages": [{"role": "user", "content": "word " * 2_000_000}]}).encode(),
    json.dumps(with_tool(deep(100))).encode(),
    json.dumps({**with_tool({"$ref": "#/nowhere"}), "tool_choice": "required"}).encode(),
    json.dumps(
        {**with_tool({"type": "object", "properties": {"a": {"$ref": "https://x/y"}}}), "tool_choice": "required"}
    ).encode(),
    json.dumps({**CHAT, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}).encode(),
    json.dumps(
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    ).encode(),
    json.dumps({**CHAT, "messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]}).encode(),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_cannot_be_served_is_a_4xx_and_free(platform: Platform, number: int) -> None:
    key = platform.new_customer(f"clumsy-{number}")
    status, answer = post(platform, key, "/v1/chat/completions", BAD[number])
    assert 400 <= status < 500, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    name = f"clumsy-{number}"
    wallet = wait_for(lambda: (w := platform.wallet(name))["held_nano"] == 0 and w, "the hold to be given back")
    assert wallet["balance_nano"] == 100 * 10**9


PIXEL = "data:image/png;base64,iVBORw0KGgo="
SEEN: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "max_tokens": 1,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
                ],
            }
        ],
    },
    "/v1/responses": {
        "max_output_tokens": 1,
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "auto"}]}],
    },
}


@pytest.mark.parametrize("path", SEEN)
def test_a_picture_for_a_model_that_only_reads_is_refused_by_name(platform: Platform, path: str) -> None:
    key = platform.new_customer(f"painter-{path.rpartition('/')[2]}")
    status, answer = post(platform, key, path, json.dumps({"model": MODEL, **SEEN[path]}).encode())
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "content[0]" in answer["error"]["message"], answer


ASKED = st.sampled_from([("/v1/chat/completions", CHAT), ("/v1/completions", OLD)])


def test_one_wrong_value_anywhere_harms_nobody(platform: Platform) -> None:
    key = platform.new_customer("fuzzer", money="1000")
    workers = sorted(platform.children("worker"))
    end_s = time.monotonic() + FUZZ_S

    @settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(ASKED.flatmap(lambda asked: st.tuples(st.just(asked), st.sampled_from(places(asked[1])))), JSON)
    def try_one(where: tuple[tuple[str, Any], tuple[Any, ...]], new: Any) -> None:
        if time.monotonic() > end_s:
            return
        (path, asked), place = where
        body = changed(asked, place, new)
        if body.get("max_tokens") != 1:
            body["max_tokens"] = (
                body["max_tokens"] if not isinstance(body["max_tokens"], int) else min(body["max_tokens"], 2)
            )
        status, answer = post(platform, key, path, encoded(body))
        assert status == 200 or 400 <= status < 500, (status, answer, body)
        assert status == 200 or set(answer["error"]) == {"message", "type", "param", "code"}

    try_one()
    assert sorted(platform.children("worker")) == workers, "no worker died"
