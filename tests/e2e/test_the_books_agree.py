"""The sum of the receipts equals the ledger to the nano after 200 mixed requests."""

import json
from concurrent.futures import ThreadPoolExecutor
from random import Random

import openai
import pytest
from tests.platform import Platform, steelyard, wait_for

MODEL = "smollm2-135m-instruct"
REQUESTS = 200
WALLET = 50 * 10**9


class Customers:
    """One client for each credential; making one costs a tenth of a second of CPU."""

    def __init__(self, platform: Platform, keys: dict[str, str]) -> None:
        self._clients = {
            name: openai.OpenAI(base_url=f"{platform.url}/v1", api_key=key, max_retries=0) for name, key in keys.items()
        }

    def of(self, kind: str) -> openai.OpenAI:
        return self._clients.get(kind, self._clients["solvent"])

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def one_request(customers: Customers, number: int) -> str | None:
    """Returns the request id when something was opened; the mix is the same in every run."""
    random = Random(number)
    kind = random.choice(["plain", "stream", "cut", "pair", "bad key", "bad body", "unknown model", "penniless"])
    messages = [{"role": "user", "content": f"Tell me about the number {random.randrange(40)}."}]
    asked = {"model": MODEL, "messages": messages, "max_tokens": random.randrange(1, 12), "temperature": 0}
    client = customers.of(kind)
    try:
        if kind in {"stream", "cut"}:
            leave_at = None
            if kind == "cut":
                asked["max_tokens"], leave_at = 200, random.randrange(2, 6)
            with client.chat.completions.create(**asked, stream=True) as stream:
                for place, _ in enumerate(stream):
                    if place == leave_at:
                        break
                return str(stream.response.headers["x-request-id"])
        if kind == "pair":
            asked["n"] = 2
        if kind == "unknown model":
            asked["model"] = "nobody"
        if kind == "bad body":
            asked["max_tokens"] = -1
        raw = client.chat.completions.with_raw_response.create(**asked)
        return str(raw.headers["x-request-id"])
    except openai.APIStatusError as error:
        expected = {"bad key": 401, "penniless": 402, "unknown model": 404, "bad body": 400}
        assert error.status_code == expected[kind], error
        return None


@pytest.mark.timeout(300)  # a hundred answers of a real model take their time on a busy machine
def test_receipts_usage_and_ledger_are_one(platform: Platform) -> None:
    key = platform.new_customer("mixed", money="50")
    empty = platform.new_customer("mixed-empty", money=None)
    customers = Customers(platform, {"solvent": key, "penniless": empty, "bad key": "sk-sy-wrong"})
    with ThreadPoolExecutor(8) as pool:
        served = [i for i in pool.map(lambda n: one_request(customers, n), range(REQUESTS)) if i]
    customers.close()
    assert 60 < len(served) < REQUESTS

    def settled() -> bool:
        return bool(platform.wallet("mixed")["held_nano"] == 0)

    wait_for(settled, "every hold to be settled")
    receipts = [platform.get(f"/v1/receipts/{request_id}", key) for request_id in served]
    assert {r["state"] for r in receipts} == {"posted"}
    assert {r["end"] for r in receipts} >= {"complete", "client_gone"}
    paid = sum(r["amount_nano"] for r in receipts)
    assert paid > 0

    wallet = platform.wallet("mixed")
    assert wallet["balance_nano"] == wallet["available_nano"] == WALLET - paid
    assert platform.wallet("mixed-empty")["balance_nano"] == 0

    accounts = {a["name"]: a for a in platform.run("ledger", "accounts")}
    account = accounts["wallet:mixed"]
    assert account["credit_nano"] - account["debit_nano"] == WALLET - paid

    checked = steelyard("verify", "--json", data=platform.data)
    assert json.loads(checked.stdout)["ok"] is True
