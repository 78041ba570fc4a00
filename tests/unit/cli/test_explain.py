"""`steelyard route explain`: a table people can read, and a sentence about the winner."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Terminal

from steelyard.cli.desk import Desk

SEEN = {
    "score": 1000, "cost_nano": 2_000_000, "margin_nano": None, "first_token_ms": 412, "first_token_p95_ms": 900,
    "token_us": 8_500, "token_p95_us": 12_000, "error_permille": 20, "failures": 1, "in_flight": 3, "breaker": "closed",
    "affinity": 756, "strain": 244, "weight": 100,
}  # fmt: skip
TOLD: dict[str, Any] = {
    "worker": "w0-1", "workers": 2, "model": "glm-5", "at_ns": 1_790_000_000_000_000_000, "currency": "CNY",
    "policy": "cheapest", "decided_by": "model", "winner": "zhipu", "reason": "cache", "refused": "", "key": None,
    "expected": [70, 30, 200, 0, 0, 0, 0], "price_nano": 5_000_000,
    "offers": [
        {"offer_id": 1, "upstream": "zhipu", "upstream_model": "glm-5.3", "rank": 1, "left_out": "", **SEEN},
        {"offer_id": 2, "upstream": "ark", "upstream_model": "glm", "rank": 0, "left_out": "not_sold", "weight": 50},
    ],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    commands: list[tuple[str, dict[str, Any]]] = []

    def command(desk: Desk, op: str, payload: dict[str, Any]) -> dict[str, Any]:
        commands.append((op, payload))
        return TOLD

    monkeypatch.setattr(Desk, "command", command)
    return commands


def test_the_table_and_the_sentence(terminal: Terminal, asked: list[tuple[str, dict[str, Any]]]) -> None:
    said = terminal("route", "explain", "glm-5").out
    for told in (
        "zhipu",
        "glm-5.3",
        "412 / 900 ms",
        "8,500 / 12,000 µs",
        "76 %",
        "closed, failed last, 2 % errors, 3 in flight",
    ):
        assert told in said
    assert "zhipu would be asked first, policy cheapest by model: it is expected to hold most of the prompt" in said
    assert "100 prompt tokens, 30 of them from cache, 200 output; the customer pays" in said
    assert "As worker w0-1, one of 2, sees it" in said
    assert asked == [("route.explain", {"model": "glm-5"})]


def test_a_prompt_is_a_text_or_a_files(
    terminal: Terminal, asked: list[tuple[str, dict[str, Any]]], tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("Once upon a time", encoding="utf-8")
    terminal("route", "explain", "glm-5", "--prompt", str(tmp_path / "long.txt"), "--key", "7", "--max-tokens", "9")
    terminal("route", "explain", "glm-5", "--prompt", "x" * 5000, "--at", "2026-11-27T10:30:00+08:00")
    first, second = (payload for _, payload in asked)
    assert first == {"model": "glm-5", "prompt": "Once upon a time", "key": 7, "max_tokens": 9}
    assert second == {"model": "glm-5", "prompt": "x" * 5000, "at_ns": 1_795_746_600_000_000_000}


def test_programs_get_all_of_it(terminal: Terminal, asked: list[tuple[str, dict[str, Any]]]) -> None:
    assert terminal("route", "explain", "glm-5", "--json").json["offers"][0]["affinity"] == 756


def test_without_a_platform_nobody_knows(terminal: Terminal) -> None:
    said = terminal("route", "explain", "glm-5")
    assert said.code == 1
    assert "Only a running worker knows that" in said.err
