"""`steelyard up --demo-vendors`: five vendors behind one key, their prices, and who answers when one fails."""

import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from tests.platform import Platform, wait_for

from steelyard.cli.demo_vendors import SHARED_MODEL, UPSTREAMS

VENDORS = ("deepseek", "ark", "dashscope", "zhipu", "stepfun")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("demo") / "data", "--no-engine", "--demo-vendors").start()
    yield platform
    platform.stop()


def rows(demo: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = demo.get("/admin/v1/requests?limit=200", demo.operator_key)["rows"]
    return found


def test_the_table_of_the_start_is_what_the_books_say(demo: Platform) -> None:
    for vendor in VENDORS:
        line = rf"^{vendor} +\S+ +([0-9]+ +){{4}}¥\S+ +¥\S+ +¥\S+ +16\.[0-9] %$"
        assert re.search(line, demo.text, re.MULTILINE), vendor
    posted = rows(demo)
    assert {row["upstream"] for row in posted} == set(UPSTREAMS)
    for row in posted:
        assert row["charge_nano"] > row["cost_nano"] > 0
        assert (row["charge"].rstrip("0") in demo.text) and row["end"] == "complete"
    failed = re.search(rf"^(\w+), for (\w+) failed +{SHARED_MODEL}", demo.text, re.MULTILINE)
    assert failed and failed[1] != failed[2]


def answered_by(demo: Platform) -> str:
    """Ask the model that all of them have; the upstream that the books name."""
    client = openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.api_key, max_retries=0)
    messages: Any = [{"role": "user", "content": "Hello"}]
    raw = client.chat.completions.with_raw_response.create(model=SHARED_MODEL, messages=messages)
    assert raw.parse().choices[0].message.content
    request_id = raw.headers["x-request-id"]
    demo.posted_receipt(request_id)
    return str(next(row["upstream"] for row in rows(demo) if row["request_id"] == request_id))


def test_one_that_is_told_to_fail_is_passed_over(demo: Platform) -> None:
    """In the way that the start tells."""
    told = re.search(r"^Make one fail: curl http://\S+(/_mood) -d '(\S+)'$", demo.text, re.MULTILINE)
    assert told, demo.text
    first = answered_by(demo)
    address = next(row["address"] for row in demo.run("models", "list") if row["upstream"] == first)
    mood = f"http://{urlsplit(address).netloc}{told[1]}"
    urllib.request.urlopen(mood, told[2].encode(), timeout=10).close()
    try:
        assert first not in {answered_by(demo) for _ in range(3)}
    finally:
        urllib.request.urlopen(mood, b"{}", timeout=10).close()


def test_every_model_answers_and_the_books_are_right(demo: Platform) -> None:
    client = openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.api_key, max_retries=0)
    messages: Any = [{"role": "user", "content": "scene: reasoning"}]
    for model in [one.id for one in client.models.list()]:
        with client.chat.completions.create(model=model, messages=messages, stream=True) as stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    wait_for(lambda: demo.wallet("demo")["held_nano"] == 0, "the last hold to end")
    assert demo.run("verify")["ok"] is True


def test_what_was_chosen_is_told_and_what_would_be(demo: Platform) -> None:
    prompt = "Name the rivers of Asia. " * 200
    client = openai.OpenAI(base_url=f"{demo.url}/v1", api_key=demo.api_key, max_retries=0)
    messages: Any = [{"role": "user", "content": prompt}]
    raw = client.chat.completions.with_raw_response.create(model=SHARED_MODEL, messages=messages)
    request_id = raw.headers["x-request-id"]
    demo.posted_receipt(request_id)
    found = demo.get(f"/admin/v1/requests/{request_id}", demo.operator_key)
    way, upstream = found["way"], found["row"]["upstream"]
    assert len(way["offers"]) == len(VENDORS) and way["reason"] and way["policy"] == "balanced"
    if not way["tried"]:
        assert (way["offers"][0]["upstream"], way["offers"][0]["rank"]) == (upstream, 1)
    told = demo.run("route", "explain", SHARED_MODEL, "--prompt", prompt)
    assert told["winner"] in UPSTREAMS and told["price_nano"] > 0
    asked = {upstream, *(one["upstream"] for one in way["tried"])}
    assert {one["upstream"] for one in told["offers"] if one["affinity"] > 700} == asked
