"""Every vendor's emulator sold by the real platform: what the vendor counted is what is shown, charged and posted."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest
from tests.e2e.vendor import PRICES
from tests.platform import Platform, wait_for
from tests.vendors.cases import CASES
from tests.vendors.running import Running, running

from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

pytestmark = pytest.mark.usefixtures("vendors")
TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS: list[Any] = [{"type": "function", "function": TOOL}]


@pytest.fixture(scope="module")
def vendors(platform: Platform) -> Iterator[dict[str, Running]]:
    """Each of them at the upstream `v-KIND`, whose key the platform has; sold as the model `m-KIND`."""
    counts = dict.fromkeys(("context_tokens", "max_output_tokens", "default_max_tokens"), 4096)
    with ExitStack() as stack:
        served = {kind: stack.enter_context(running(case.emulator())) for kind, case in CASES.items()}
        with Line(DataDir(platform.data).socket) as line:
            for kind, one in served.items():
                names = {"name": f"m-{kind}", "upstream": f"v-{kind}", "upstream_model": "their-m", "kind": kind}
                line.command("prices.load", {"text": PRICES.format(model=f"m-{kind}", upstream=f"v-{kind}")})
                line.command("model.register", {**names, **counts, "address": one.address})
        wanted = {f"m-{kind}" for kind in served}
        wait_for(
            lambda: all(wanted <= set(platform.get("/readyz")["models"]) for _ in range(6)), "every worker to know them"
        )
        yield served
        with Line(DataDir(platform.data).socket) as line:
            for kind in served:
                line.command("model.withdraw", {"upstream": f"v-{kind}"})


@pytest.mark.parametrize("kind", CASES)
def test_what_the_vendor_counted_is_what_is_posted(client, receipt, kind: str) -> None:
    asked: Any = [{"role": "user", "content": "scene: cached " + "x" * 200}]
    chunks = client.chat.completions.create(
        model=f"m-{kind}", messages=asked, stream=True, stream_options={"include_usage": True}
    )
    request_id, pieces = chunks.response.headers["x-request-id"], list(chunks)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "Hello"
    plain = client.chat.completions.with_raw_response.create(model=f"m-{kind}", messages=asked)
    (streamed,) = [piece.usage for piece in pieces if piece.usage]
    for found, usage in (
        (receipt(request_id), streamed),
        (receipt(plain.headers["x-request-id"]), plain.parse().usage),
    ):
        cached = usage.prompt_tokens_details.cached_tokens
        assert (found["prompt_tokens"], found["cached_tokens"]) == (usage.prompt_tokens, cached)
        assert cached == usage.prompt_tokens // 2 > 20
        assert (found["output_tokens"], found["amount"]) == (usage.completion_tokens, usage.steelyard["charge"])
        assert usage.completion_tokens_details.reasoning_tokens == usage.completion_tokens - 2
        assert not found["estimated"]


@pytest.mark.parametrize("kind", CASES)
def test_a_tool_is_called_and_its_result_is_taken(client, kind: str) -> None:
    turns: list[Any] = [{"role": "user", "content": "scene: tools"}]
    message = client.chat.completions.create(model=f"m-{kind}", messages=turns, tools=TOOLS).choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Bern"}
    turns += [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},  # most clients forget the reasoning
        {"role": "tool", "tool_call_id": call.id, "content": "Rain"},
    ]
    answer = client.chat.completions.create(model=f"m-{kind}", messages=turns, tools=TOOLS).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("The tools have answered.", "stop")


def test_what_google_signed_goes_to_the_client_and_back(client, vendors: dict[str, Running]) -> None:
    asked: Any = {"model": "m-gemini", "tools": TOOLS}
    turns: list[Any] = [{"role": "user", "content": "scene: tools"}]
    (call,) = client.chat.completions.create(messages=turns, **asked).choices[0].message.tool_calls
    with client.chat.completions.create(messages=turns, stream=True, **asked) as stream:
        calls = [each for piece in stream if piece.choices for each in piece.choices[0].delta.tool_calls or ()]
    assert call.extra_content == calls[0].extra_content == {"google": {"thought_signature": "signed:call_0"}}
    turns += [{"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}]
    turns += [{"role": "tool", "tool_call_id": call.id, "content": "Rain"}]
    client.chat.completions.create(messages=turns, **asked)
    assert vendors["gemini"].body["messages"][1]["tool_calls"][0]["extra_content"] == call.extra_content


@pytest.mark.parametrize("kind", sorted(CASES.keys() - {"openai"}))
def test_thinking_with_tools_goes_round_for_a_client_of_the_other_dialect(
    platform: Platform, vendors: dict[str, Running], kind: str
) -> None:
    """What an agent of Anthropic's dialect does all day: think, call, hand all of it back."""
    tool: Any = {"name": "weather", "input_schema": TOOL["parameters"]}
    asking: dict[str, Any] = {
        "model": f"m-{kind}",
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [tool],
    }
    with anthropic.Anthropic(base_url=platform.url, api_key=platform.api_key, max_retries=0) as client:
        turns: list[Any] = [{"role": "user", "content": "scene: tools"}]
        first = client.messages.create(messages=turns, **asking)
        assert [block.type for block in first.content] == [*(["thinking"] * CASES[kind].shows), "tool_use"]
        (call,) = [block for block in first.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Rain"}]
        turns += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        second = client.messages.create(messages=turns, **asking)
    assert (second.content[-1].text, second.stop_reason) == ("The tools have answered.", "end_turn")
    (sent,) = [turn for turn in CASES[kind].order(vendors[kind].body)["messages"] if turn["role"] == "assistant"]
    took = None if kind in {"dashscope_native", "gemini"} else "Hm, so."
    assert sent.get("reasoning_content") == took, "the vendor gets its own reasoning back, if it takes it"
    assert "thinking_blocks" not in sent and None not in vendors[kind].body.values()


@pytest.mark.parametrize(("fault", "status"), [("content", 400), ("no_money", 502)])
@pytest.mark.parametrize("kind", CASES)
def test_an_unpaid_bill_of_ours_is_no_busy_model(client, kind: str, fault: str, status: int) -> None:
    """Whatever status the vendor has for it. Last of all: its account counts as closed for a while afterwards."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=f"m-{kind}", messages=[{"role": "user", "content": f"scene: {fault}"}])
    assert caught.value.status_code == status
    if status != 400:
        assert "emulated" not in str(caught.value)
