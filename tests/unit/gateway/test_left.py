"""Headers that say what is left: the balance, and the limits per minute in each family's names."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.bodies import encoded
from tests.fakes.parties import words
from tests.fakes.till import MONEY_NANO, TENANT, Said, Scribe, Till
from tests.unit.gateway.test_bad_input import ASKED as EVERY

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.left import anthropic_rates, balance_header, openai_rates
from steelyard.gateway.once import RecordingWire
from steelyard.gateway.wire import lines_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.left import Left, Rate
from steelyard.kernel.money import nano_from_text
from steelyard.kernel.records import Limit, LimitKind, Scope
from steelyard.ledger.gauges import Seed

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ASKED = {path: asked for path, asked in EVERY.items() if not path.endswith("count_tokens")}
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    made = Till(tmp_path, Scribe(words("Hel", "lo")))
    yield made
    made.close()


def ask(till: Till, path: str = CHAT, **fields: Any) -> Said:
    return asyncio.run(till.ask(path, json.dumps(HELLO | fields).encode()))


def balance(said: Said) -> int:
    return nano_from_text(said.headers["x-steelyard-balance"])


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_tells_the_balance_that_it_leaves(till: Till, path: str) -> None:
    for _ in range(3):
        said = asyncio.run(till.ask(path, encoded(ASKED[path])))
        charge = till.settle()
        assert charge > 0
        assert balance(said) == till.teller.available(TENANT)
    assert till.teller.available(TENANT) == MONEY_NANO - 3 * charge


def test_a_stream_tells_what_is_left_beside_its_hold(till: Till) -> None:
    said = ask(till, stream=True)
    till.settle()
    (settled,) = till.settled
    assert balance(said) == MONEY_NANO - settled.opened.hold_nano < till.teller.available(TENANT)


def test_what_came_out_of_a_lease_tells_no_balance(till: Till) -> None:
    till.near.tells = False
    assert "x-steelyard-balance" not in ask(till).headers


def limited(till: Till, kind: LimitKind, most: int, scope: Scope = Scope.KEY) -> None:
    till.teller.limit(Seed(Limit(scope, 1, TENANT, "it", kind, most)))


def test_without_limits_nothing_is_said_of_them(till: Till) -> None:
    limited(till, LimitKind.CONCURRENCY, 5)
    assert not [name for path in (CHAT, MESSAGES) for name in ask(till, path).headers if "ratelimit" in name]


def test_limits_per_minute_in_openais_names(till: Till) -> None:
    limited(till, LimitKind.RPM, 10)
    limited(till, LimitKind.RPM, 3, Scope.PROJECT)
    limited(till, LimitKind.TPM, 10_000)
    first = ask(till).headers
    reserved = 10_000 - int(first["x-ratelimit-remaining-tokens"])
    till.settle()
    second = ask(till, stream=True).headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("3", "2")
    assert (second["x-ratelimit-limit-requests"], second["x-ratelimit-remaining-requests"]) == ("3", "1")
    assert first["x-ratelimit-reset-requests"] == "60s"
    assert first["x-ratelimit-limit-tokens"] == "10000"
    counted = till.settled[0].closed.usage.total
    assert int(second["x-ratelimit-remaining-tokens"]) == 10_000 - reserved - counted, "what ran is counted now"
    assert int(second["x-ratelimit-reset-tokens"].rstrip("s")) in (59, 60)
    assert ask(till).status == 200 and ask(till).status == 429


def test_limits_per_minute_in_anthropics_names(till: Till) -> None:
    limited(till, LimitKind.RPM, 10)
    said = ask(till, MESSAGES).headers
    assert said["anthropic-ratelimit-requests-limit"] == "10"
    assert said["anthropic-ratelimit-requests-remaining"] == "9"
    assert said["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert not [name for name in said if name.startswith("x-ratelimit") or "tokens" in name]


def test_both_ways_to_say_when_more_is_left() -> None:
    left = Left(5, requests=Rate(10, 0, 12 * NS_PER_S + 1))
    assert openai_rates(left, 2 * NS_PER_S)[2] == (b"x-ratelimit-reset-requests", b"11s")
    assert openai_rates(left, 99 * NS_PER_S)[2] == (b"x-ratelimit-reset-requests", b"0s")
    assert anthropic_rates(left, 0)[2][1].startswith(b"1970-01-01T00:00:13")


async def test_a_kept_answer_is_replayed_without_what_was_true_then() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    wire = RecordingWire(Chat(), {"headers": []}, send, send)  # type: ignore[arg-type]
    rate, charge = (b"x-ratelimit-limit-tokens", b"1"), (b"x-steelyard-charge", b"1.00")
    wire.start(200, lines_of([balance_header(5), rate, charge]))
    await wire.send(b"{}")
    assert len(sent[0]["headers"]) == 3
    assert wire.headers == [(b"x-steelyard-charge", b"1.00")]
