"""kill -9 of a worker whose request had moved to another upstream: it is settled there, at what was delivered."""

import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.e2e.vendor import PRICES
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform, free_port, wait_for

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir
from steelyard.kernel.ids import id_from_text
from steelyard.storage import tables
from steelyard.storage.database import open_database

MODEL = "moved-m"


@pytest.fixture
def running(tmp_path: Path):
    platform = Platform(tmp_path / "data", "--workers", "1", "--no-engine").start()
    yield platform
    platform.stop()


def test_a_moved_request_of_a_killed_worker_is_settled_where_it_was_served(running: Platform) -> None:
    with OpenAIServer() as server:
        counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
        with Line(DataDir(running.data).socket) as line:
            for upstream, port in (("away", free_port()), ("here", server.port)):
                line.command("prices.load", {"text": PRICES.format(model=MODEL, upstream=upstream)})
                names = {"name": MODEL, "upstream": upstream, "upstream_model": "their-m", "kind": "openai"}
                line.command("model.register", {**names, **counts, "address": f"127.0.0.1:{port}"})
        key = running.new_customer("mover")
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "scene: held"}]}
        request = urllib.request.Request(
            f"{running.url}/v1/chat/completions", json.dumps(body).encode(), {"authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            request_id = answer.headers["x-request-id"]
            while b"Hel" not in answer.readline():
                pass
            (worker,) = running.children("worker")
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(OSError):
                while answer.readline():
                    pass
                raise OSError("it ended without its end")
        wait_for(lambda: running.children("worker") not in ([], [worker]), "another worker")
    upstream, cost, end, output = wait_for(lambda: _row(running, request_id), "the request to be posted")
    assert (upstream, cost, end) == ("here", "here", "worker_died")
    assert output >= 1
    assert running.run("verify")["ok"]


def _row(platform: Platform, request_id: str) -> tuple[str, str, str, int] | None:
    """Where the books have it, whose cost tariff counts, how it ended and what was delivered."""
    engine = open_database(DataDir(platform.data).database, readonly=True)
    usage, tariffs = tables.usage.c, tables.tariffs.c
    query = select(usage.upstream, tariffs.subject, usage.end, usage.output).join(
        tables.tariffs, tariffs.id == usage.cost_id
    )
    try:
        with engine.connect() as connection:
            found = connection.execute(query.where(usage.request_id == id_from_text(request_id))).first()
    finally:
        engine.dispose()
    return None if found is None else (found[0], found[1], found[2], found[3])
