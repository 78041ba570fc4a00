"""Failover under load, by the real platform: two of three upstreams fail in every way, and nobody notices.

2,000 requests. Who had heard nothing yet is served by whoever is healthy; each request is billed once, where it was
served; the books verify.
"""

import asyncio
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
from sqlalchemy import select
from tests.e2e.vendor import PRICES
from tests.emulators.failing_server import WAYS, FailingServer, ask
from tests.platform import Platform, free_port, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir
from steelyard.kernel.ids import text_from_id
from steelyard.storage import tables
from steelyard.storage.database import open_database

WAVES, CUSTOMERS, EACH = 5, 50, 8
PRICE_EACH_NANO = 8 * 200 + 32 * 2000 + 3 * 8000  # 8 cached and 32 fresh prompt tokens, 3 of the answer
CUSTOMER = "failover"
UPSTREAMS: list[str] = []  # offered by these tests


class Wave:
    """A model of its own at three upstreams of its own, so that nothing is held against them yet."""

    def __init__(self, platform: Platform, number: int, ports: list[int]) -> None:
        self.model = f"failover-{number}"
        counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
        with Line(DataDir(platform.data).socket) as line:
            for place, port in enumerate(ports):
                upstream = f"{self.model}-{place}"
                UPSTREAMS.append(upstream)
                line.command("prices.load", {"text": PRICES.format(model=self.model, upstream=upstream)})
                names = {"name": self.model, "upstream": upstream, "upstream_model": "their-m", "kind": "openai"}
                line.command("model.register", {**names, **counts, "address": f"127.0.0.1:{port}"})
                line.command("route.offer", {"model": self.model, "upstream": upstream, "first_token_s": 3})
        self.healthy = f"{self.model}-{len(ports) - 1}"

    def bodies(self, customer: int) -> list[bytes]:
        """Every other one as a stream."""
        turn = [{"role": "user", "content": "Hello"}]
        asked = [{"model": self.model, "messages": turn, "stream": bool((customer + n) % 2)} for n in range(EACH)]
        return [json.dumps(body).encode() for body in asked]


@pytest.fixture(scope="module")
def servers(platform: Platform) -> Iterator[tuple[FailingServer, FailingServer]]:
    with FailingServer() as failing, FailingServer(()) as healthy:
        yield failing, healthy
    with Line(DataDir(platform.data).socket) as line:
        for upstream in UPSTREAMS:
            line.command("model.withdraw", {"upstream": upstream})


def test_two_thousand_requests_while_two_of_three_upstreams_fail_in_every_way(
    platform: Platform, servers: tuple[FailingServer, FailingServer]
) -> None:
    failing, healthy = servers
    key = platform.new_customer(CUSTOMER)
    before = platform.wallet(CUSTOMER)["balance_nano"]
    refusing = free_port()  # nobody listens: the connection is refused
    waves = [Wave(platform, number, [refusing, failing.port, healthy.port]) for number in range(WAVES - 1)]
    waves.append(Wave(platform, WAVES - 1, [failing.port, failing.port, healthy.port]))
    wait_for(
        lambda: all(waves[-1].model in platform.get("/readyz")["models"] for _ in range(6)), "every worker to know it"
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        "content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    ).encode()
    seen: list[tuple[int, bytes, str]] = []

    async def load(wave: Wave) -> None:
        async with asyncio.TaskGroup() as group:
            for customer in range(CUSTOMERS):
                _ = group.create_task(ask(platform.port, head, wave.bodies(customer), seen))

    for wave in waves:
        asyncio.run(load(wave))

    assert len(seen) == WAVES * CUSTOMERS * EACH == 2000
    assert len({request_id for _, _, request_id in seen}) == 2000
    bad = [(status, body[:200]) for status, body, _ in seen if status != 200]
    assert not bad, Counter(bad).most_common(3)
    broken = [request_id for _, body, request_id in seen if b'"upstream_failed"' in body]
    for _, body, request_id in seen:
        assert b'"Hel' in body or b"Hello" in body, body
        assert (request_id in broken) or b"lo" in body
    assert set(failing.failed) == set(WAYS), failing.failed
    assert len(broken) <= failing.failed["cut_after_hello"], "only what had begun to speak was seen to break"
    served = wait_for(lambda: len(rows := _rows(platform)) == 2000 and rows, "all to be posted")
    assert healthy.served == 2000 - len(broken)
    assert set(served) == {request_id for _, _, request_id in seen}, "each once"
    for request_id, (upstream, charge_nano, end) in served.items():
        if request_id not in broken:
            assert (upstream, charge_nano, end) == (healthy_of(upstream), PRICE_EACH_NANO, "complete")
    charges_nano = sum(charge_nano for _, charge_nano, _ in served.values())
    assert before - platform.wallet(CUSTOMER)["balance_nano"] == charges_nano
    found = platform.run("verify")
    assert found["ok"], found


def healthy_of(upstream: str) -> str:
    return f"{upstream[:-2]}-2"


def _rows(platform: Platform) -> dict[str, tuple[str, int, str]]:
    """Request id → where it was served, for how much, and how it ended."""
    engine = open_database(DataDir(platform.data).database, readonly=True)
    try:
        with engine.connect() as connection:
            columns = tables.usage.c
            query = select(columns.request_id, columns.upstream, columns.charge_nano, columns.end).where(
                columns.model.like("failover-%")
            )
            return {text_from_id(row[0]): (row[1], row[2], row[3]) for row in connection.execute(query)}
    finally:
        engine.dispose()


def test_another_model_answers_by_header_and_a_model_by_its_alias(
    platform: Platform, servers: tuple[FailingServer, FailingServer]
) -> None:
    _, healthy = servers
    key = platform.new_customer("fallbacks")
    away, there = Wave(platform, 90, [free_port()]), Wave(platform, 91, [healthy.port])
    with Line(DataDir(platform.data).socket) as line:
        line.command("route.alias", {"name": "failover-alias", "model": there.model})

    def ask_for(model: str, fallbacks: str = "") -> tuple[int, str | None, str]:
        """The status, which model the answer names, and the request's id."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
        request = urllib.request.Request(f"{platform.url}/v1/chat/completions", body)
        request.add_header("authorization", f"Bearer {key}")
        if fallbacks:
            request.add_header("x-steelyard-fallbacks", fallbacks)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["x-steelyard-model"], answer.headers["x-request-id"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None, ""

    assert ask_for(away.model)[0] == 503
    for model, fallbacks in ((away.model, f"{away.model}, {there.model}"), ("failover-alias", "")):
        status, served, request_id = ask_for(model, fallbacks)
        assert (status, served) == (200, there.model)
        assert platform.posted_receipt(request_id, key)["model"] == there.model
    assert "failover-alias" in [one["id"] for one in platform.get("/v1/models", key)["data"]]
    assert ask_for(there.model, "a,b,c,d,e")[0] == 400
    assert ask_for(there.model, "nobody")[0] == 404
    assert platform.run("verify")["ok"]
    with Line(DataDir(platform.data).socket) as line:
        line.command("route.alias", {"name": "failover-alias"})
