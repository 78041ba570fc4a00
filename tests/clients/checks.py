"""What must hold of a cell: the client got what the upstream said, and its usage is its receipt and the ledger's.

Assertions only; the tests and the conformance table ask the same ones.
"""

from typing import Any

from tests.clients.matrix import BROKEN, CALLS, CELLS, EMPTY, FORECAST, LEFT, RETRIED, SERVED, Cell, Client
from tests.clients.session import Run, tenant
from tests.emulators.openai_server import CACHED, LONG_PROMPT, PROMPT

MONEY_NANO = 100 * 10**9
OUTPUT = {"text": 3, "tools": 20, "schema": 7}
BUCKETS = {"prompt": "prompt_tokens", "cached": "cached_tokens", "output": "output_tokens"}


def check(run: Run, client: Client, cell: Cell) -> None:
    """Raises AssertionError."""
    said = run.said[client.name, cell.name]
    if cell is EMPTY:
        refused(client, said["error"])
    elif cell is BROKEN:
        assert "failed while it answered" in said["error"]["text"], said
    elif cell is LEFT:
        assert said.get("text") == "Hel", said
        (receipt,) = run.receipts(client, LEFT)
        assert (receipt["end"], receipt["output_tokens"]) == ("client_gone", 1)
    else:
        assert "error" not in said, said
        served(run, client, cell, said)


def refused(client: Client, error: dict[str, Any]) -> None:
    assert error["kind"] == client.refusal, error
    assert error["status"] == 402, error
    assert "The wallet cannot cover this request" in error["text"], error


def served(run: Run, client: Client, cell: Cell, said: dict[str, Any]) -> None:
    match cell.ask:
        case "text":
            assert said["text"] == "Hello"
        case "tools":
            assert said["calls"] == CALLS
        case "schema":
            assert said["value"] == FORECAST
    receipts = run.receipts(client, cell)
    assert receipts[0]["output_tokens"] == OUTPUT[cell.ask]
    for receipt in receipts:
        agrees(run, client, LONG_PROMPT if cell.ask == "tools" else PROMPT, receipt)
    if cell.way == "stream" and not cell.usage and not client.usage_always:
        assert said.get("usage") is None
    else:
        assert said["usage"] == {name: sum(each[there] for each in receipts) for name, there in BUCKETS.items()}


def agrees(run: Run, client: Client, prompt: int, receipt: dict[str, Any]) -> None:
    """A receipt, its usage row, its rated lines and its share of the ledger are one."""
    assert (receipt["end"], receipt["prompt_tokens"], receipt["cached_tokens"]) == ("complete", prompt, CACHED)
    detail = run.detail(receipt["request_id"])
    row = detail["row"]
    assert row["tenant"] == tenant(client)
    assert (row["input"] + row["cached_input"], row["output"]) == (prompt, receipt["output_tokens"])
    assert receipt["amount_nano"] == row["charge_nano"] == sum(line["amount_nano"] for line in receipt["lines"]) > 0
    shares = [share["share_nano"] for share in detail["entries"] if share["fact"] == "charge"]
    assert sum(shares) == row["charge_nano"]


def check_wallet(run: Run, client: Client) -> None:
    """Of all that a client sent, its retry and its hang-up included: billed once, and the wallet adds up."""
    rows, wallet = run.rows(client), run.platform.wallet(tenant(client))
    known = {each for cell in (*SERVED, RETRIED) for each in run.request_ids(client, cell)}
    assert {row["request_id"] for row in rows if row["end"] == "complete"} == known
    assert len(known) == len(SERVED) + 1 + client.answers_itself * sum(cell.ask == "tools" for cell in CELLS)
    assert [row["end"] for row in rows].count("client_gone") == 1
    assert all(row["charge_nano"] == 0 for row in rows if row["end"] == "refused")
    charged = sum(row["charge_nano"] for row in rows)
    assert wallet["balance_nano"] == MONEY_NANO - charged
    (group,) = run.asked(f"/admin/v1/usage?by=tenant&tenant={tenant(client)}")["groups"]
    assert (group["requests"], group["charge_nano"]) == (len(rows), charged)
