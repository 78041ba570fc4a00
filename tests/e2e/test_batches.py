"""openai-python's files and batches against the platform: lines on the scripted upstream, results in files."""

import json
from typing import Any

import openai
import pytest
from tests.e2e.vendor import MODEL
from tests.platform import Platform, wait_for

pytestmark = pytest.mark.usefixtures("server")
CHAT = "/v1/chat/completions"
HALF = [("input", "1"), ("cached_input", "0.1"), ("output", "4")]


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


def test_a_file_that_is_no_batch_fails_with_its_line(client) -> None:
    batch = run(client, [line("a"), line("a"), {"custom_id": "c"}])
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert [(one.code, one.line, one.param) for one in batch.errors.data] == [
        ("duplicate_custom_id", 2, "custom_id"),
        ("invalid_line", 3, "method"),
    ]
    assert batch.failed_at and batch.request_counts.completed == 0


def test_files_come_are_listed_read_and_go(client, platform: Platform) -> None:
    text = b"line\n" * 300_000
    name = '../../etc/\u6587 "x".jsonl'
    made = client.files.create(
        file=(name, text), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.bytes, made.filename, made.expires_at) == (len(text), '\u6587 "x".jsonl', made.created_at + 3600)
    assert client.files.content(made.id).content == text
    assert client.files.retrieve(made.id) == made
    other = client.files.create(file=("b.jsonl", b"1"), purpose="user_data")
    listed = client.files.list(purpose="user_data", limit=1)
    assert [one.id for one in listed.data] == [other.id] and listed.has_more
    assert made.id in [one.id for one in listed], "the client pages on by itself"
    stranger = client.with_options(api_key=platform.new_customer("batch-stranger"))
    for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert made.id not in [one.id for one in stranger.files.list()]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)
    client.files.delete(other.id)


@pytest.mark.parametrize(
    ("content", "purpose", "status"), [(b"", "batch", 400), (b"1", "fine-tune", 400), (b"1", "batch_output", 400)]
)
def test_a_file_nobody_can_use_is_refused(client, content: bytes, purpose: Any, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a", content), purpose=purpose)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata[...]"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"input_file_id": "file-1"}, "input_file_id"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_by_name(client, changes: dict[str, Any], param: str) -> None:
    asked: dict[str, Any] = {"input_file_id": f"file-{'0' * 32}", "endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.APIStatusError) as caught:
        client.batches.create(**asked | changes)
    assert caught.value.body["param"] == param


def test_an_empty_wallet_and_a_revoked_key_fail_the_rest_and_lose_nothing(client, platform: Platform) -> None:
    poor = client.with_options(api_key=platform.new_customer("poor", money="0.000060"))
    batch = run(poor, [line(f"n{number}", max_tokens=5) for number in range(8)])
    answers, errors = results(poor, batch.output_file_id), results(poor, batch.error_file_id)
    assert batch.status == "completed" and len(answers) + len(errors) == 8 and errors
    assert {one["response"]["status_code"] for one in errors.values()} == {402}
    assert {one["response"]["body"]["error"]["code"] for one in errors.values()} == {"insufficient_quota"}
    spent = sum(
        round(float(one["response"]["body"]["usage"]["steelyard"]["charge"]) * 10**9) for one in answers.values()
    )
    wallet = wait_for(lambda: (w := platform.wallet("poor"))["held_nano"] == 0 and w, "the last hold to go back")
    assert wallet["balance_nano"] == 60_000 - spent
    made = platform.admin("keys", {"tenant": "poor", "name": "short-lived"})
    late = client.with_options(api_key=made["key"])
    file = late.files.create(file=("in.jsonl", jsonl([line("a")])), purpose="batch")
    batch = late.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    platform.run("key", "revoke", str(made["id"]))
    batch = ended(poor, batch.id)
    found = results(poor, batch.error_file_id) | results(poor, batch.output_file_id)
    assert found["a"]["response"]["status_code"] in {401, 402}


def test_a_batch_is_cancelled_and_the_rest_is_reported(client) -> None:
    lines = [line(f"n{number}") for number in range(2000)]
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    errors = results(client, batch.error_file_id)
    assert len(errors) + len(results(client, batch.output_file_id)) == 2000
    assert {one["error"]["code"] for one in errors.values()} == {"batch_cancelled"}
    assert batch.id in [one.id for one in client.batches.list(limit=2)]


def test_other_dialects_run_in_batches_too(client) -> None:
    body = {"model": MODEL, "input": "scene: hello"}
    lines = [{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}]
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    batch = ended(client, batch.id)
    (answer,) = results(client, batch.output_file_id).values()
    assert answer["response"]["body"]["output"][0]["content"][0]["text"] == "Hello"
    assert answer["response"]["body"]["store"] is False


def test_the_built_in_engine_answers_batches_at_half_its_price(client, platform: Platform) -> None:
    lines = [line(f"n{number}", model="smollm2-135m-instruct", max_tokens=4) for number in range(4)]
    batch = run(client, lines)
    answers = results(client, batch.output_file_id)
    assert (batch.status, len(answers)) == ("completed", 4)
    receipt = platform.get(f"/v1/receipts/{answers['n0']['response']['request_id']}", platform.api_key)
    prices = {part["meter"]: part["text"] for part in receipt["lines"]}
    assert prices["output"] == "0.75" and prices.get("input", "0.25") == "0.25"
