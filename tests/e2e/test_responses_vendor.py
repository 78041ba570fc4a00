"""openai-python's Responses through the public port to a server that does the worst real ones do."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from tests.e2e.vendor import MODEL, sold
from tests.emulators.openai_server import CACHED, PROMPT, OpenAIServer
from tests.platform import Platform, wait_for

TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}
    for name in ("weather", "time", "step")
]


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[OpenAIServer]:
    with sold(platform) as running:
        yield running


@pytest.fixture
def client(platform: Platform, server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def receipt(platform: Platform) -> Callable[[str], dict]:
    def posted(request_id: str) -> dict:
        def look() -> dict | None:
            found = platform.get(f"/v1/receipts/{request_id}", platform.api_key)
            return found if found["state"] == "posted" else None

        return wait_for(look, f"the posted receipt of {request_id}")

    return posted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["hello", "usage_twice", "usage_everywhere", "usage_never", "comments", "reasoning"])
def test_what_is_shown_is_what_is_posted(client, receipt, name: str, stream: bool) -> None:
    if stream:
        with client.responses.stream(model=MODEL, input=f"scene: {name}") as seen:
            response = seen.get_final_response()
    else:
        raw = client.responses.with_raw_response.create(model=MODEL, input=f"scene: {name}")
        response = raw.parse()
        assert raw.headers["x-steelyard-charge"] == response.usage.steelyard["charge"]
        assert response.id == raw.headers["x-request-id"].replace("req_", "resp_")
    assert response.status == "completed" and response.output_text == ("42" if name == "reasoning" else "Hello")
    usage, found = response.usage, receipt(response.id)
    assert (found["prompt_tokens"], found["output_tokens"]) == (usage.input_tokens, usage.output_tokens)
    assert found["cached_tokens"] == usage.input_tokens_details.cached_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert found["amount"] == usage.steelyard["charge"]
    assert usage.steelyard.get("estimated", False) == (name == "usage_never")
    if name != "usage_never":
        assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (PROMPT, CACHED)
    assert usage.output_tokens_details.reasoning_tokens == (6 if name == "reasoning" else 0)
