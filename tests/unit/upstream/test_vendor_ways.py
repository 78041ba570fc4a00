"""What one vendor does as no other: its words for reasoning, its credential, its ends, its balance."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.unit.upstream.test_vendors import TOOLS, Shop, pool, reasoning, text
from tests.vendors.cases import CASES
from tests.vendors.running import running

from steelyard.emulators.deepseek import DeepSeek
from steelyard.emulators.server import Mood
from steelyard.emulators.zhipu import RESET
from steelyard.kernel.clock import NS_PER_S, ManualClock, iso_from_ns
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.upstream.balance import Balance
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.moonshot import balances_of
from steelyard.upstream.openai import OpenAI
from steelyard.upstream.openai_fault import reset_of
from steelyard.upstream.pool import Pool
from steelyard.upstream.vendor import Asked
from steelyard.upstream.zhipu import ZHIPU, token

__all__ = ["pool"]
Open = Callable[..., Shop]


@pytest.fixture
async def opened(pool: Pool) -> AsyncGenerator[Open, None]:
    with ExitStack() as stack:
        yield lambda kind, key="", mood=None: Shop(
            CASES[kind], stack.enter_context(running(CASES[kind].emulator(), mood)), pool, key
        )


# --- DeepSeek


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, {}),
        ({"reasoning_effort": "minimal"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
        ({"reasoning_effort": "medium"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"reasoning_effort": "xhigh"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"reasoning_effort": "max"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"enable_thinking": False, "thinking_budget": 9}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "auto"}}, {}),
    ],
)
async def test_deepseek_is_told_in_its_own_words_and_nothing_that_was_not_said(
    opened: Open, said: dict[str, Any], sent: dict[str, Any]
) -> None:
    shop = opened("deepseek")
    await shop.events("Hi", **said)
    spoken = {"thinking", "reasoning_effort", "enable_thinking", "thinking_budget"} & shop.at.body.keys()
    assert {name: shop.at.body[name] for name in spoken} == sent


CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "Rain"}


async def test_deepseek_gets_its_reasoning_back_in_conversations_with_tools(opened: Open) -> None:
    shop = opened("deepseek")
    kept = {"role": "assistant", "content": "", "reasoning_content": "Hm", "tool_calls": [CALL]}
    lost = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    said = {"role": "assistant", "content": "Rain."}
    await shop.events("Hi", kept, RESULT, lost, RESULT, said, "scene: hello", tools=TOOLS)
    turns = [turn.get("reasoning_content") for turn in shop.at.body["messages"] if turn["role"] == "assistant"]
    assert turns == ["Hm", "", ""]
    await shop.events("Hi", said, "scene: hello")
    assert "reasoning_content" not in shop.at.body["messages"][1], "without tools it does not want to see any"
    await shop.events("Hi", lost, RESULT, "scene: hello", tools=TOOLS, thinking={"type": "disabled"})
    assert "reasoning_content" not in shop.at.body["messages"][1]


def test_deepseeks_emulator_refuses_a_turn_that_lost_its_reasoning() -> None:
    turns = [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    with pytest.raises(Exception, match="400") as caught:
        DeepSeek().check({"messages": turns})
    assert "must be passed back" in json.dumps(caught.value.answer.body)  # type: ignore[attr-defined]


async def test_deepseeks_signs_of_life_are_no_answer(opened: Open) -> None:
    events = await opened("deepseek").events("scene: queued")
    assert text(events) == "Hello"


async def test_deepseeks_lack_of_resources_is_its_own_failure(opened: Open) -> None:
    error = await opened("deepseek").refused("scene: exhausted")
    assert (error.fault, error.retryable) == (Fault.SERVER, True)


async def test_balances_are_told_as_they_are_written(opened: Open, pool: Pool) -> None:
    found = {}
    for kind in ("deepseek", "moonshot", "zhipu"):
        shop = opened(kind)
        found[kind] = await ByKind("vendor", pool, shop.case.key).balance(shop.offer)
    assert found == {
        "deepseek": (Balance("CNY", "110.00", {"granted": "10.00", "topped_up": "100.00"}),),
        "moonshot": (Balance("CNY", "49.58894", {"voucher": "46.58893", "cash": "3.00001"}),),
        "zhipu": None,
    }
    shop = opened("deepseek")
    with pytest.raises(UpstreamError) as caught:
        await ByKind("vendor", pool, "wrong").balance(shop.offer)
    assert caught.value.fault is Fault.AUTH


@pytest.mark.parametrize(
    ("amount", "usable"), [("0.00001", True), ("0", False), ("0.00", False), ("-3.2", False), ("12", True)]
)
def test_moonshot_sells_in_dollars_abroad_and_serves_nobody_without_money(amount: str, usable: bool) -> None:
    body = b'{"data": {"available_balance": %b}}' % amount.encode()
    (found,) = balances_of(body, "api.moonshot.ai")
    assert (found.currency, found.total, found.usable) == ("USD", amount, usable)
    with pytest.raises(ValueError, match="no amount"):
        balances_of(b'{"data": {"available_balance": 1e5}}', "api.moonshot.ai")


async def test_a_prompt_is_counted_where_the_vendor_counts_the_whole_of_it(opened: Open, pool: Pool) -> None:
    counts = {}
    turns = Raw(msgspec.json.encode([{"role": "user", "content": "scene: hello " + "x" * 90}]))
    for kind in ("moonshot", "zhipu", "deepseek"):
        shop = opened(kind)
        adapter = ByKind("vendor", pool, shop.case.key)
        plain = await adapter.count(shop.offer, {"messages": turns})
        tooled = await adapter.count(shop.offer, {"messages": turns, "tools": Raw(msgspec.json.encode(TOOLS))})
        events = await shop.events("scene: hello " + "x" * 90)
        counts[kind] = (plain == events[-1].usage.prompt, tooled is not None and plain is not None and tooled > plain)
        if kind == "deepseek":
            assert (plain, tooled) == (None, None)
    assert counts == {"moonshot": (True, False), "zhipu": (True, True), "deepseek": (False, False)}


# --- Zhipu

KEPT = {"type": "enabled", "clear_thinking": False}


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0.01, "do_sample": False}),
        ({"temperature": 1}, {"temperature": 0.99}),
        ({"temperature": 0.3, "top_p": 1}, {"temperature": 0.3, "top_p": 0.99}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"thinking": KEPT}, {"thinking": KEPT}),
        ({"tools": TOOLS}, {"tool_stream": True}),
        ({"user": "somebody"}, {"user_id": "somebody"}),
        ({"user": "x"}, {}),
        ({"reasoning_effort": "medium"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"reasoning_effort": "xhigh"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ],
)
async def test_zhipu_is_asked_within_its_scales(opened: Open, said: dict[str, Any], sent: dict[str, Any]) -> None:
    shop = opened("zhipu")
    await shop.events("scene: hello", **said)
    own = {
        "temperature",
        "top_p",
        "do_sample",
        "stop",
        "thinking",
        "tool_stream",
        "user",
        "user_id",
        "reasoning_effort",
    }
    assert {name: shop.at.body[name] for name in own & shop.at.body.keys()} == sent


@pytest.mark.parametrize(("field", "value"), [("stop", ["a", "b"]), ("temperature", 1.5)])
async def test_what_zhipu_cannot_do_is_refused_by_name(opened: Open, field: str, value: Any) -> None:
    shop = opened("zhipu")
    error = await shop.refused("Hi", **{field: value})
    assert (error.fault, error.param, error.status) == (Fault.NOT_CARRIED, field, 400)
    assert not shop.at.served.heard, "nothing was asked"


@pytest.mark.parametrize(("scene", "finish"), [("sensitive", "content_filter"), ("window", "length")])
async def test_zhipus_own_ends_are_told_in_everybodys_words(opened: Open, scene: str, finish: str) -> None:
    assert (await opened("zhipu").events(f"scene: {scene}"))[-1].finish == finish


async def test_zhipus_network_error_is_its_failure(opened: Open) -> None:
    assert (await opened("zhipu").refused("scene: network")).fault is Fault.SERVER


async def test_a_used_up_quota_says_when_it_is_filled_again(opened: Open) -> None:
    error = await opened("zhipu").refused("scene: quota")
    assert error.reset_ns is not None
    assert iso_from_ns(error.reset_ns) == "2026-12-01T00:00:00.000Z", f"{RESET} in Beijing"


def test_a_moment_that_cannot_be_is_none() -> None:
    assert reset_of("您的限额将在 2026-13-01 08:00:00 重置。") is None
    assert reset_of("weekly limit") is None


async def test_a_token_of_zhipus_is_what_its_sdk_makes_and_is_used_for_three_minutes(opened: Open, pool: Pool) -> None:
    shop, clock = opened("zhipu"), ManualClock()
    adapter = OpenAI("vendor", pool, "jwt:emulated.secret", ZHIPU, clock)
    params = {"messages": Raw(msgspec.json.encode([{"role": "user", "content": "scene: hello"}]))}
    sent = []
    for wait_s in (0, 179, 1, -400):
        clock.advance(wait_s * NS_PER_S)
        assert [event async for event in adapter.stream(shop.offer, params, 50, b"")]
        sent.append(shop.at.headers["authorization"])
    assert sent[0] == sent[1] and len(set(sent)) == 3
    head, claims, signature = (base64.urlsafe_b64decode(part + "==") for part in sent[0][7:].split("."))
    assert json.loads(head) == {"alg": "HS256", "sign_type": "SIGN"}
    now_ms = ManualClock().now_ns() // 1_000_000
    assert json.loads(claims) == {"api_key": "emulated", "exp": now_ms + 210_000, "timestamp": now_ms}
    said = sent[0][7:].rpartition(".")[0].encode()
    assert signature == hmac.digest(b"secret", said, hashlib.sha256)


async def test_neither_a_token_nor_its_secret_is_told_on(pool: Pool) -> None:
    adapter = OpenAI("vendor", pool, "jwt:id.hush", ZHIPU, ManualClock())
    made = token("jwt:id.hush", ManualClock().now_ns())
    adapter._request(Offer(1, "m", "v", "127.0.0.1:1", "m", 9, 9, "zhipu"), "GET", "/")
    error = adapter.veiled(UpstreamError("vendor", f"bad token {made} of jwt:id.hush"))
    assert str(error) == "bad token [key] of [key]"
    with pytest.raises(UpstreamError) as caught:
        OpenAI("vendor", pool, "jwt:hush", ZHIPU, ManualClock()).stream(
            Offer(1, "m", "v", "127.0.0.1:1", "m", 9, 9, "zhipu"), {"messages": Raw(b"[]")}, 1, b""
        )
    assert caught.value.fault is Fault.AUTH and "hush" not in str(caught.value)


# --- MiniMax


async def test_minimaxs_reasoning_may_come_whole_with_every_piece(opened: Open) -> None:
    shop = opened("minimax")
    events = await shop.events("scene: repeated")
    assert (reasoning(events), text(events)) == ("Let me see.", "42")


# --- moods


async def test_an_emulator_fails_as_often_as_it_is_told_and_the_same_each_time(opened: Open) -> None:
    outcomes = []
    for _ in range(2):
        shop = opened("deepseek", mood=Mood(failing_permille=400, faults=("server", "rate_limited", "cut")))
        told = []
        for _ in range(20):
            try:
                told.append(text(await shop.events("scene: hello")))
            except UpstreamError as error:
                told.append(str(error.fault))
        outcomes.append(told)
    assert outcomes[0] == outcomes[1]
    assert {"Hello", "server", "rate_limited"} <= set(outcomes[0])


def test_what_is_asked_knows_its_text() -> None:
    asked = Asked("u", "m", {"messages": Raw(b"[1]"), "tools": Raw(b"[]"), "stop": Raw(b'"x"')}, 1)
    assert (asked.text_bytes(), asked.stops) == (5, ["x"])
