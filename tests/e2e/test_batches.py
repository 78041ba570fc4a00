"""openai-python's files and batches against the platform: lines on the scripted upstream, results in files."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.e2e.vendor import MODEL, sold
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform, wait_for

CHAT = "/v1/chat/completions"
HALF = [("input", "1"), ("cached_input", "0.1"), ("output", "4")]


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[OpenAIServer]:
    with sold(platform) as running:
        yield running


@pytest.fixture
def client(platform: Platform, server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made:
        yield made


def line(custom_id: str, scene: str = "hello", **changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"scene: {scene}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body | changes}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def run(client: openai.OpenAI, lines: list[Any], **changes: Any) -> Any:
    """Upload, create, wait for the end."""
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **changes)
    assert batch.status in {"validating", "in_progress"}
    return ended(client, batch.id)


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    def look() -> Any:
        found = client.batches.retrieve(batch_id)
        return found if found.status in {"completed", "failed", "expired", "cancelled"} else None

    return wait_for(look, "the batch to end", 60)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    found = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found), "a line is answered once"
    return {one["custom_id"]: one for one in found}


def test_a_batch_of_good_and_bad_lines_completes(client, platform: Platform) -> None:
    good = [line(f"good-{number}") for number in range(17)]
    bad = [line("bad-1", max_tokens=-1), line("bad-2", "refused"), line("bad-3", messages=[])]
    batch = run(client, good[:9] + bad + good[9:], metadata={"night": "1"})
    assert (batch.status, batch.metadata) == ("completed", {"night": "1"})
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (20, 17, 3)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at < batch.expires_at
    answers, errors = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert answers.keys() == {one["custom_id"] for one in good}
    assert errors.keys() == {one["custom_id"] for one in bad}
    for answer in answers.values():
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        body = answer["response"]["body"]
        assert body["choices"][0]["message"]["content"] == "Hello"
        receipt = platform.get(f"/v1/receipts/{answer['response']['request_id']}", platform.api_key)
        assert receipt["amount"] == body["usage"]["steelyard"]["charge"]
        assert [(part["meter"], part["text"]) for part in receipt["lines"]] == HALF
    for error in errors.values():
        assert error["response"]["status_code"] == 400
        assert error["response"]["body"]["error"]["message"]
