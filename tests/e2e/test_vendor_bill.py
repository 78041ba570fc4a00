"""What a vendor abroad is owed by the running platform: for whole answers, for one that was cut, and on his bill."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.e2e.vendor import offered
from tests.emulators.openai_server import CACHED, PROMPT, OpenAIServer
from tests.platform import Platform, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

MODEL, UPSTREAM = "far-m", "far"
COSTS = """
[[cost]]
upstream = "far"
model = "their-m"
currency = "USD"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "0.15"
cached_input = "0.003"
output = "0.60"
source = "their list"

[[rate]]
from = "USD"
to = "CNY"
rate = "7.1034"
effective_from = 2026-01-01T00:00:00+08:00
source = "the bank"
"""
WHOLE_NANO = (PROMPT - CACHED) * 150 + CACHED * 3 + 3 * 600


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    with Line(DataDir(platform.data).socket) as line:
        line.command("prices.load", {"text": COSTS})
    with (
        OpenAIServer() as server,
        offered(platform, f"127.0.0.1:{server.port}", model=MODEL, upstream=UPSTREAM),
        openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key, max_retries=0) as made,
    ):
        yield made


def owed(platform: Platform) -> dict[str, int]:
    found = [row for row in platform.run("payables") if row["vendor"] == UPSTREAM]
    return found[0] if found else {"requests": 0}


def test_a_vendor_is_owed_what_he_said_and_his_bill_trues_up_the_rest(
    client: openai.OpenAI, platform: Platform, tmp_path: Path
) -> None:
    def asked(scene: str) -> openai.Stream:
        turns = [{"role": "user", "content": f"scene: {scene}"}]
        return client.chat.completions.create(model=MODEL, messages=turns, stream=True)  # type: ignore[arg-type]

    whole = asked("hello")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in whole if chunk.choices) == "Hello"
    cut = asked("held")
    next(chunk for chunk in cut if chunk.choices and chunk.choices[0].delta.content)
    cut.close()
    ids = [stream.response.headers["x-request-id"] for stream in (whole, cut)]
    receipts = [platform.posted_receipt(one) for one in ids]
    assert [one["end"] for one in receipts] == ["complete", "client_gone"]
    found = wait_for(lambda: (row := owed(platform))["requests"] == 2 and row, "both to be booked")
    estimated = found["estimated_nano"]
    assert (found["currency"], found["estimated"], found["payable_nano"]) == ("USD", 1, WHOLE_NANO + estimated)
    assert found in platform.get("/admin/v1/payables", platform.operator_key)
    assert estimated >= 150 + 600, "the prompt and a token at least"
    (margin,) = [row for row in platform.run("margin") if row["name"] == MODEL]
    assert margin["cost_nano"] == sum(round(nano * 71034 / 10000) for nano in (WHOLE_NANO, estimated))

    counts = {"model": "their-m", "prompt_tokens": PROMPT, "cached_tokens": CACHED, "completion_tokens": 3}
    amounts = (WHOLE_NANO, WHOLE_NANO + 1200)
    rows = [
        {"request_id": one, "time": receipt["closed_at"], "currency": "USD", "amount": f"{nano / 10**9:.9f}", **counts}
        for one, receipt, nano in zip(ids, receipts, amounts, strict=True)
    ]
    bill = tmp_path / "bill.jsonl"
    bill.write_text("\n".join(json.dumps(row | {"completion_tokens": 5 if row is rows[1] else 3}) for row in rows))
    seen = platform.run("reconcile", UPSTREAM, str(bill))["reconciliation"]
    assert (seen["agreed"], [one["name"] for one in seen["differences"]]) == (1, ["estimate trued up"])
    assert seen["adjust_nano"] == amounts[1] - estimated
