"""What is refused is refused clearly, in the dialect's shape, and nothing is charged."""

import http.client
import json

import openai
import pytest
from tests.platform import Platform, wait_for

MODEL = "smollm2-135m-instruct"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


def post(platform: Platform, body: bytes, key: str | None = None) -> tuple[int, dict, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20)
    headers = {"authorization": f"Bearer {platform.api_key if key is None else key}"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text), {k.lower(): v for k, v in answer.getheaders()}


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (json.dumps({**HELLO, "messages": []}).encode(), 400, "invalid_request", "messages"),
        (json.dumps({**HELLO, "temperature": "hot"}).encode(), 400, "invalid_request", "temperature"),
        (json.dumps({**HELLO, "model": "gpt-9"}).encode(), 404, "model_not_found", "model"),
        (b" " * (11 * 1024 * 1024), 413, "body_too_large", None),
    ],
)
def test_bad_requests_cost_nothing(platform: Platform, body: bytes, status: int, code: str, param: str | None) -> None:
    key = platform.new_customer(f"bad-{status}-{code}-{param}".replace("_", "-"))
    got, answer, headers = post(platform, body, key)
    assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)
    assert headers["x-request-id"].startswith("req_")
    name = f"bad-{status}-{code}-{param}".replace("_", "-")
    wallet = platform.wallet(name)
    assert wallet["balance_nano"] == wallet["available_nano"] == 100 * 10**9


@pytest.mark.parametrize("key", ["", "sk-sy-unknown", "no key at all"])
def test_an_unknown_key_is_401(platform: Platform, key: str) -> None:
    status, answer, _ = post(platform, json.dumps(HELLO).encode(), key)
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


def test_an_operator_key_buys_nothing(platform: Platform) -> None:
    status, _, _ = post(platform, json.dumps(HELLO).encode(), platform.operator_key)
    assert status == 401


def test_an_empty_wallet_is_402_and_is_not_retried(platform: Platform) -> None:
    key = platform.new_customer("penniless", money=None)
    with (
        openai.OpenAI(base_url=f"{platform.url}/v1", api_key=key) as client,
        pytest.raises(openai.APIStatusError) as error,
    ):
        client.chat.completions.create(**HELLO)
    assert error.value.status_code == 402
    assert error.value.code == "insufficient_quota"


def test_a_small_wallet_gets_a_shorter_answer_and_is_told(platform: Platform) -> None:
    key = platform.new_customer("thrifty", money="0.0006")
    status, answer, headers = post(platform, json.dumps({**HELLO, "max_tokens": 2000}).encode(), key)
    assert status == 200, answer
    lowered = int(headers["x-steelyard-max-tokens-lowered"])
    assert 0 < lowered < 2000
    assert answer["usage"]["completion_tokens"] <= lowered


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(platform: Platform) -> None:
    platform.new_customer("leaver")
    made = platform.run("key", "add", "leaver", "--name", "second")
    assert post(platform, json.dumps(HELLO).encode(), made["key"])[0] == 200
    platform.run("key", "revoke", str(made["id"]))
    wait_for(
        lambda: all(post(platform, json.dumps(HELLO).encode(), made["key"])[0] == 401 for _ in range(6)),
        "both workers to refuse the key",
        1,
    )


def test_a_prompt_longer_than_the_context_is_400_and_free(platform: Platform) -> None:
    key = platform.new_customer("verbose")
    body = json.dumps({**HELLO, "messages": [{"role": "user", "content": "long " * 20_000}]}).encode()
    status, answer, _ = post(platform, body, key)
    assert status == 400
    assert "context" in answer["error"]["message"]
    wallet = wait_for(lambda: (w := platform.wallet("verbose"))["held_nano"] == 0 and w, "the hold to be given back")
    assert wallet["balance_nano"] == 100 * 10**9


def test_anothers_receipt_is_unknown(platform: Platform) -> None:
    key = platform.new_customer("curious")
    _, _, headers = post(platform, json.dumps(HELLO).encode())
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20)
    connection.request("GET", f"/v1/receipts/{headers['x-request-id']}", headers={"authorization": f"Bearer {key}"})
    assert connection.getresponse().status == 404
    connection.close()


def test_unknown_places_and_methods_answer_in_the_dialects_shape(platform: Platform) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20)
    for method, path, status in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 404),
        ("PUT", "/v1/models", 405),
    ]:
        connection.request(method, path)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == status
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert answer.getheader("x-request-id", "").startswith("req_")
    connection.close()
