"""A customer fetches his receipt with its proof over HTTP and recomputes it."""

import json
import urllib.error
import urllib.request

from tests.platform import Platform, steelyard, wait_for

from steelyard.reports.check import check


def test_a_customer_can_recompute_his_receipt(platform: Platform, tmp_path) -> None:
    key = platform.new_customer("prover")
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 4,
    }
    headers = {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{platform.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        request_id = answer.headers["x-request-id"]

    def exported() -> bytes | None:
        asked = urllib.request.Request(f"{platform.url}/v1/receipts/{request_id}?export=1", headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return bytes(answer.read())
        except OSError:
            return None

    lines = wait_for(exported, "the posted receipt")
    verdict = check(lines.splitlines())
    assert verdict.ok, verdict
    assert [one.request_id for one in verdict.receipts] == [request_id]
    file = tmp_path / "receipt.jsonl"
    file.write_bytes(lines)
    assert "can be recomputed" in steelyard("receipt", "check", str(file)).stdout
    other = urllib.request.Request(
        f"{platform.url}/v1/receipts/{request_id}?export=1",
        headers={"authorization": f"Bearer {platform.new_customer('stranger')}"},
    )
    try:
        urllib.request.urlopen(other, timeout=20)
    except urllib.error.HTTPError as error:
        assert error.code == 404
    else:
        raise AssertionError("another tenant saw the receipt")
