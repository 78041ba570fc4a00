"""Both dialects in front of a server of Anthropic's, by the real clients: shown = receipt = posted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.e2e.test_messages import agree, receipt_of
from tests.e2e.vendor import CLAUDE_MODEL, claude_sold, offered
from tests.emulators.anthropic_server import KEY, AnthropicServer
from tests.fakes.authority import Authority
from tests.platform import Platform, wait_for


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[AnthropicServer]:
    with claude_sold(platform) as running:
        yield running


@pytest.fixture
def chat(platform: Platform, server: AnthropicServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made:
        yield made


@pytest.fixture
def messages(platform: Platform, server: AnthropicServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=platform.url, api_key=platform.api_key, max_retries=0) as made:
        yield made


def scene(name: str) -> list[Any]:
    return [{"role": "user", "content": f"scene: {name}"}]


@pytest.mark.parametrize("stream", [False, True])
def test_an_openai_client(chat: openai.OpenAI, platform: Platform, stream: bool) -> None:
    asked: dict[str, Any] = {"model": CLAUDE_MODEL, "messages": scene("hello")}
    if stream:
        chunks = chat.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        request_id = chunks.response.headers["x-request-id"]
        seen = list(chunks)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in seen if chunk.choices)
        usage = seen[-1].usage
    else:
        raw = chat.chat.completions.with_raw_response.create(**asked)
        request_id, answer = raw.headers["x-request-id"], raw.parse()
        text, usage = answer.choices[0].message.content, answer.usage
    found = receipt_of(platform, request_id)
    assert text == "Hello"
    assert (found["prompt_tokens"], found["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert found["amount"] == usage.steelyard["charge"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_anthropic_client(messages: anthropic.Anthropic, platform: Platform, stream: bool) -> None:
    asked: dict[str, Any] = {"model": CLAUDE_MODEL, "messages": scene("hello"), "max_tokens": 50}
    if stream:
        with messages.messages.stream(**asked) as events:
            answer = events.get_final_message()
    else:
        answer = messages.messages.create(**asked)
    assert answer.content[0].text == "Hello"
    found, usage = receipt_of(platform, answer.id.replace("msg_", "req_")), answer.usage.to_dict()
    if stream:  # the library's helper keeps no fields of `usage` that it does not know
        usage["steelyard"] = {"charge": found["amount"]}
    assert agree(usage, found)


def test_who_is_not_trusted_is_not_asked_and_the_log_says_why(platform: Platform, tmp_path: Path) -> None:
    if not Authority.is_possible():
        pytest.skip("needs the openssl command line")
    with AnthropicServer(Authority(tmp_path).server()) as stranger:
        address = f"https://127.0.0.1:{stranger.port}"
        with (
            offered(platform, address, model="stranger-m", upstream="stranger", kind="anthropic"),
            openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as caught,
        ):
            client.chat.completions.create(model="stranger-m", messages=scene("hello"))
        assert not stranger.heads
    assert caught.value.status_code == 502 and "certificate" not in str(caught.value)
    logs = wait_for(lambda: "is not trusted" in (text := platform.logs()) and text, "the log to say why")
    assert "'ca_file'" in logs
    assert KEY not in logs
