"""kill -9 of workers, books and the whole platform amid a batch: every line is answered once and paid once."""

import json
import os
import signal
from pathlib import Path

import openai
from tests.e2e.vendor import MODEL, sold
from tests.platform import Platform, steelyard, wait_for

LINES = 400
ENDED = {"completed", "failed", "expired", "cancelled"}


def lines() -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "scene: hello"}]}
    made = [
        {"custom_id": f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(LINES)
    ]
    made[7] = {**made[7], "body": body | {"max_tokens": -1}}
    return b"".join(json.dumps(one).encode() + b"\n" for one in made)


def kept(platform: Platform) -> int:
    """Answers on the disk, whoever wrote them."""
    files = [path.read_bytes() for path in (platform.data / "files").iterdir()]
    return sum(data.count(b'"status_code":200') for data in files)


def test_a_batch_outlives_whatever_is_killed(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "data", "--no-engine", "--workers", "2").start()
    with sold(platform):
        key = platform.new_customer("night", money="10")
        client = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=key, max_retries=8)
        file = client.files.create(file=("in.jsonl", lines()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        wait_for(lambda: kept(platform) >= 20, "the first lines", 60)
        for worker in platform.children("worker"):
            os.kill(worker, signal.SIGKILL)
        seen = kept(platform)
        wait_for(lambda: kept(platform) >= seen + 20, "another worker to go on", 60)
        os.kill(platform.children("books")[0], signal.SIGKILL)
        seen = kept(platform)
        wait_for(lambda: kept(platform) >= seen + 20, "the books to come back", 60)
        platform.kill()
        assert kept(platform) < LINES - 1, "the platform died amid the batch"
        platform.start()
        ended = wait_for(lambda: (b := client.batches.retrieve(batch.id)).status in ENDED and b, "the end", 90)
        counts = ended.request_counts
        assert (ended.status, counts.total, counts.completed, counts.failed) == ("completed", LINES, LINES - 1, 1)
        answers = [json.loads(text) for text in client.files.content(ended.output_file_id).text.splitlines()]
        (error,) = [json.loads(text) for text in client.files.content(ended.error_file_id).text.splitlines()]
        assert error["custom_id"] == "n7"
        assert {one["custom_id"] for one in answers} == {f"n{number}" for number in range(LINES)} - {"n7"}
        assert len(answers) == LINES - 1
        charges = {
            one["response"]["request_id"]: one["response"]["body"]["usage"]["steelyard"]["charge"] for one in answers
        }
        assert len(charges) == LINES - 1
        wait_for(lambda: platform.wallet("night")["held_nano"] == 0, "the last hold to be given back")
        spent_nano = sum(round(float(charge) * 10**9) for charge in charges.values())
        assert platform.wallet("night")["balance_nano"] == 10 * 10**9 - spent_nano, "each answer is paid once"
        for request_id in [*charges][:: LINES // 10]:
            receipt = platform.get(f"/v1/receipts/{request_id}", key)
            assert (receipt["amount"], receipt["state"]) == (charges[request_id], "posted")
        assert json.loads(steelyard("verify", "--json", data=platform.data).stdout)["ok"] is True
        client.close()
    assert platform.stop() == 0, platform.text
