"""What only Ark, DashScope, StepFun and Gemini do, over real sockets: their caps, their streams, their counts."""

from typing import Any

import pytest
from tests.unit.upstream.test_vendor_ways import Open, opened, pool
from tests.unit.upstream.test_vendors import TOOLS, Shop, reasoning, text

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.quantities import Usage
from steelyard.upstream.balance import Balance
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool

__all__ = ["opened", "pool"]


def named(shop: Shop, model: str) -> Shop:
    shop.offer = type(shop.offer)(1, "m", "vendor", shop.at.address, model, 4096, 4096, shop.case.kind)
    return shop


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("ark", "doubao-seed-2-1-pro"),
        ("dashscope", "qwen-plus"),
        ("dashscope", "qwen3.7-max"),
        ("dashscope_native", "qwen-plus"),
        ("dashscope_native", "qwen3.7-max"),
    ],
)
async def test_answer_and_reasoning_together_stay_below_the_cap(opened: Open, kind: str, model: str) -> None:
    shop = named(opened(kind), model)
    shop.max_tokens = 4
    events = await shop.events("Tell me all you know", enable_thinking=True)
    usage = events[-1].usage
    assert (usage.reasoning, usage.output, events[-1].finish) == (2, 2, "length")


@pytest.mark.parametrize("said", ["hello", "stubborn"])
async def test_a_stream_that_repeats_the_text_is_heard_once(opened: Open, said: str) -> None:
    events = await opened("dashscope_native").events(f"scene: {said}")
    assert (text(events), events[-1].finish, events[-1].usage.output) == ("Hello", "stop", 2)
    assert [event.usage.output for event in events if event.text][-1] == 2, "counted with every chunk"


async def test_so_are_reasoning_and_calls(opened: Open) -> None:
    shop = opened("dashscope_native")
    events = await shop.events("scene: stubborn", enable_thinking=True, tools=TOOLS)
    assert (reasoning(events), text(events)) == ("Hm, so.", "Hello")


async def test_what_was_written_to_a_cache_is_a_bucket_of_its_own(opened: Open) -> None:
    for kind in ("dashscope", "dashscope_native"):
        usage = (await opened(kind).events("scene: written " + "x" * 100))[-1].usage
        assert usage.cache_write > 5 and usage.input > usage.cache_write, kind


async def test_a_model_that_sees_is_asked_where_parts_go(opened: Open) -> None:
    shop = opened("dashscope_native")
    image = {"type": "image_url", "image_url": {"url": "https://e.com/a.png"}}
    turn = {"role": "user", "content": [{"type": "text", "text": "scene: hello"}, image]}
    events = await named(shop, "qwen-vl-max").events(turn)
    assert text(events) == "Hello"
    assert shop.at.served.heard[-1].path.endswith("/multimodal-generation/generation")


async def test_a_hit_of_arks_moderation_is_an_end(opened: Open) -> None:
    assert (await opened("ark").events("scene: moderated"))[-1].finish == "content_filter"
    assert text(await opened("ark").events("scene: encrypted")) == "Hello"


async def test_geminis_hidden_thoughts_are_counted(opened: Open) -> None:
    last = (await opened("gemini").events("scene: reasoning", reasoning_effort="high"))[-1]
    assert last.usage == Usage(last.usage.prompt, 0, 1, reasoning=3)


async def test_geminis_calls_come_signed_and_go_back_as_they_were(opened: Open) -> None:
    shop = opened("gemini")
    pieces = [piece for event in await shop.events("scene: tools", tools=TOOLS) for piece in event.tool_calls]
    assert [piece.signature for piece in pieces if piece.signature] == ["signed:call_0"]
    for signature, fault in (("signed:call_0", None), ("signed:another", Fault.BAD_REQUEST), (None, None)):
        call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        call |= {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
        turns = [{"role": "assistant", "content": None, "tool_calls": [call]}]
        turns.append({"role": "tool", "tool_call_id": "call_0", "content": "Rain"})
        if fault is None:
            assert text(await shop.events("scene: tools", *turns, tools=TOOLS)) == "The tools have answered."
        else:
            assert (await shop.refused("scene: tools", *turns, tools=TOOLS)).fault is fault


@pytest.mark.parametrize("kind", ["deepseek", "ark", "dashscope_native", "openai"])
async def test_nobody_else_is_shown_what_google_signed(opened: Open, kind: str) -> None:
    shop = opened(kind)
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    signed = {**call, "extra_content": {"google": {"thought_signature": "s"}}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [signed]}]
    turns.append({"role": "tool", "tool_call_id": "a", "content": "Rain"})
    await shop.events("scene: tools", *turns, tools=TOOLS)
    assert shop.case.order(shop.at.body)["messages"][1]["tool_calls"] == [call]


async def test_gemini_refuses_what_it_does_not_know_by_name(opened: Open) -> None:
    error = await opened("gemini").refused("Hi", top_k=5)
    assert (error.fault, "top_k" in error.message) == (Fault.BAD_REQUEST, True)


async def test_stepfun_says_what_is_left(opened: Open, pool: Pool) -> None:
    shop = opened("stepfun")
    found = await ByKind("vendor", pool, shop.case.key).balance(shop.offer)
    assert found == (Balance("CNY", "13.77", {"cash": "10.0", "voucher": "3.77"}),)
    assert await ByKind("vendor", pool, shop.case.key).balance(opened("gemini").offer) is None


@pytest.mark.parametrize("kind", ["ark", "dashscope", "dashscope_native", "stepfun", "gemini"])
async def test_a_completion_is_refused_before_it_is_sent(opened: Open, kind: str) -> None:
    shop = opened(kind)
    fields: dict[str, Any] = {"prompt": "once upon"}
    with pytest.raises(UpstreamError, match="conversations only") as caught:
        await shop.events(**fields)
    assert caught.value.fault is Fault.NOT_CARRIED and not shop.at.served.heard
