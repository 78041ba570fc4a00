"""Unchanged client libraries through the public port: what each sees is what its receipt says and the ledger holds.

Every cell of every client is asked once, before the first test looks; the tests are the assertions. The clients run in
processes of their own (`drivers.py`), at keys and wallets of their own, in front of the scripted upstream.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from tests.clients.drivers import REQUIRED, Driver, missing
from tests.clients.matrix import (
    BROKEN,
    CALLS,
    CLIENTS,
    EMPTY,
    FORECAST,
    LEFT,
    RETRIED,
    SCHEMA,
    SERVED,
    TOOLS,
    Cell,
    Client,
)
from tests.e2e.vendor import MODEL, sold
from tests.emulators.openai_server import CACHED, LONG_PROMPT, PROMPT
from tests.platform import Platform, wait_for

pytestmark = pytest.mark.timeout(300)  # the first test waits for all clients, on a busy machine
MONEY_NANO = 100 * 10**9
OUTPUT = {"text": 3, "tools": 20, "schema": 7}


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen."""

    platform: Platform
    keys: dict[str, str]
    said: dict[tuple[str, str], dict[str, Any]]

    def receipts(self, client: Client, cell: Cell) -> list[dict[str, Any]]:
        """The posted receipts of the requests a client knows of."""
        return [self._posted(client, name) for name in request_ids(self.said[client.name, cell.name])]

    def _posted(self, client: Client, request_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.platform.get(f"/v1/receipts/{request_id}", self.keys[client.name])
            return found if found["state"] == "posted" else None

        found: dict[str, Any] = wait_for(look, f"the posted receipt of {request_id}")
        return found

    def detail(self, request_id: str) -> dict[str, Any]:
        """The usage row, the rated lines and the ledger's share of a request, as an operator sees them."""
        found: dict[str, Any] = self.platform.get(f"/admin/v1/requests/{request_id}", self.platform.operator_key)
        return found


def request_ids(said: dict[str, Any]) -> list[str]:
    """An answer's own id has the digits of its request's."""
    return ["req_" + each[-32:] for each in said.get("ids") or [said.get("id", "")]]


def tenant(client: Client) -> str:
    return re.sub("[^a-z0-9]+", "-", client.name.lower()).strip("-")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    there = [client for client in CLIENTS if missing(client.process) is None]
    folder = tmp_path_factory.mktemp("clients")
    platform = Platform(folder / "data", "--no-engine").start()
    with sold(platform):
        keys = {client.name: platform.new_customer(tenant(client)) for client in there}
        empty = platform.new_customer("penniless", money=None)
        said: dict[tuple[str, str], dict[str, Any]] = {}

        def ask_all(process: str) -> None:
            driver = Driver(process, folder / f"{process}.log")
            for client in there:
                if client.process != process:
                    continue
                for cell in client.cells:
                    key = empty if cell is EMPTY else keys[client.name]
                    said[client.name, cell.name] = driver.ask(job_of(platform, client, cell, key))
            driver.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask_all, sorted({client.process for client in there})))
        yield Run(platform, keys, said)
    assert platform.stop() == 0, platform.text


def job_of(platform: Platform, client: Client, cell: Cell, key: str) -> dict[str, Any]:
    return {
        "client": client.module,
        "package": client.package,
        "url": platform.url,
        "key": key,
        "model": MODEL,
        "prompt": f"{cell.prompt} {tenant(client)}",
        "way": cell.way,
        "ask": cell.ask,
        "usage": cell.usage,
        "leave": cell.leave,
        "tools": TOOLS if cell.ask == "tools" else [],
        "schema": SCHEMA,
    }


@pytest.fixture(params=CLIENTS, ids=tenant)
def client(request: pytest.FixtureRequest) -> Client:
    asked: Client = request.param
    why = missing(asked.process)
    if why is not None:
        assert os.environ.get(REQUIRED) != "required", why
        pytest.skip(why)
    return asked


def asked_of(client: Client, cell: Cell, run: Run) -> dict[str, Any]:
    if cell.name in client.unable:
        pytest.skip(client.unable[cell.name])
    return run.said[client.name, cell.name]


@pytest.mark.parametrize("cell", SERVED, ids=lambda cell: cell.name)
def test_seen_is_receipt_is_ledger(client: Client, cell: Cell, run: Run) -> None:
    said = asked_of(client, cell, run)
    assert "error" not in said, said
    match cell.ask:
        case "text":
            assert said["text"] == "Hello"
        case "tools":
            assert said["calls"] == CALLS
        case "schema":
            assert said["value"] == FORECAST
    receipts, prompt = run.receipts(client, cell), LONG_PROMPT if cell.ask == "tools" else PROMPT
    assert receipts[0]["output_tokens"] == OUTPUT[cell.ask]
    for receipt in receipts:
        assert (receipt["end"], receipt["prompt_tokens"], receipt["cached_tokens"]) == ("complete", prompt, CACHED)
        detail = run.detail(receipt["request_id"])
        row = detail["row"]
        assert (row["input"] + row["cached_input"], row["output"]) == (prompt, receipt["output_tokens"])
        assert row["tenant"] == tenant(client)
        assert receipt["amount_nano"] == row["charge_nano"] == sum(line["amount_nano"] for line in receipt["lines"])
        assert (
            sum(share["share_nano"] for share in detail["entries"] if share["fact"] == "charge") == row["charge_nano"]
        )
    if cell.way == "stream" and not cell.usage and not client.usage_always:
        assert said.get("usage") is None
    else:
        total = {"prompt": "prompt_tokens", "cached": "cached_tokens", "output": "output_tokens"}
        assert said["usage"] == {name: sum(each[there] for each in receipts) for name, there in total.items()}


def test_a_hang_up_is_charged_at_what_was_read(client: Client, run: Run) -> None:
    said = asked_of(client, LEFT, run)
    assert said.get("text") == "Hel", said
    (receipt,) = run.receipts(client, LEFT)
    assert (receipt["end"], receipt["output_tokens"]) == ("client_gone", 1)


def test_an_empty_wallet_is_the_clients_own_error(client: Client, run: Run) -> None:
    error = asked_of(client, EMPTY, run)["error"]
    assert error["kind"] == client.refusal, error
    assert error["status"] == 402 or "402" in error["text"] or "wallet" in error["text"]


def test_a_broken_stream_is_an_error(client: Client, run: Run) -> None:
    said = asked_of(client, BROKEN, run)
    assert "failed" in said["error"]["text"], said


def test_a_retry_is_billed_once_and_the_wallet_adds_up(client: Client, run: Run) -> None:
    """Of all that this client sent, the retry included."""
    if RETRIED.name not in client.unable:
        said = asked_of(client, RETRIED, run)
        assert said.get("text") == "Hello", said
    platform = run.platform
    wallet = wait_for(lambda: (w := platform.wallet(tenant(client)))["held_nano"] == 0 and w, "the last hold to end")
    page = platform.get(f"/admin/v1/requests?tenant={tenant(client)}&limit=200", platform.operator_key)
    rows = page["rows"]
    served = [cell for cell in (*SERVED, RETRIED) if cell.name not in client.unable]
    known = {each for cell in served for each in request_ids(run.said[client.name, cell.name])}
    assert {row["request_id"] for row in rows if row["end"] == "complete"} == known
    assert len([row for row in rows if row["end"] == "client_gone"]) == (LEFT.name not in client.unable)
    assert all(row["charge_nano"] == 0 for row in rows if row["end"] == "refused")
    charged = sum(row["charge_nano"] for row in rows)
    assert wallet["balance_nano"] == MONEY_NANO - charged
    (group,) = [row for row in platform.run("usage", "--by", "tenant") if row["name"] == tenant(client)]
    assert (group["requests"], group["charge_nano"]) == (len(rows), charged)


def test_the_books_are_right(run: Run) -> None:
    assert run.platform.run("verify")["ok"] is True
