"""Every dialect before every upstream's dialect, by real clients: what was said arrives, and shown = receipt = posted.

One customer asks it all; at the end his receipts make his bill, and the books verify.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest
from tests.e2e.test_messages import receipt_of
from tests.e2e.vendor import BUSY, BUSY_MODEL, CLAUDE_MODEL, MODEL, claude_address, claude_sold, offered, sold
from tests.platform import Platform, wait_for

CUSTOMER = "translator"
PARAMETERS = {"type": "object", "properties": {}}
FORM = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern"]}},
    "required": ["city"],
    "additionalProperties": False,
}
MARK = {"cache_control": {"type": "ephemeral"}}
LONG = "The whole of the rules of the house, again and again. " * 20
Call = tuple[str, Any]


@dataclass
class Seen:
    """What a client was told, in words that no dialect owns."""

    request_id: str
    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    reason: str | None = ""
    prompt: int = 0
    cached: int = 0
    output: int = 0
    thought: int = 0
    charge: str | None = None


@dataclass
class Books:
    """What was asked so far."""

    key: str
    heads: list[bytes]  # of requests to the server of Anthropic's dialect
    charges_nano: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def books(platform: Platform) -> Iterator[Books]:
    tls = platform.authority
    with (
        sold(platform),
        claude_sold(platform) as claude,
        offered(platform, claude_address(claude, tls), model=BUSY_MODEL, upstream=BUSY, kind="anthropic"),
    ):
        yield Books(platform.new_customer(CUSTOMER), claude.heads)


def user(scene: str) -> Any:
    return {"role": "user", "content": f"scene: {scene}"}


# --- the clients ---------------------------------------------------------------------------------------------------


def chat(platform: Platform, key: str, model: str, scene: str, scenario: str, stream: bool) -> Seen:
    system = {"role": "system", "content": [{"type": "text", "text": LONG, **MARK}] if scenario == "cached" else "Hi"}
    tools = [{"type": "function", "function": {"name": n, "parameters": PARAMETERS}} for n in ("weather", "time")]
    extra: Any = {"tools": tools} if scenario == "tools" else {}
    if scenario == "form":
        extra = {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}}
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=key, max_retries=0) as client:
        asked = {"model": model, "messages": [system, user(scene)], **extra}
        if stream:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            answer = client.chat.completions.create(**asked, **options)
            request_id = answer.response.headers["x-request-id"]
            chunks = list(answer)
            message, reason = _joined(chunks)
            usage = chunks[-1].usage
        else:
            raw = client.chat.completions.with_raw_response.create(**asked)
            request_id, whole = raw.headers["x-request-id"], raw.parse()
            message, reason, usage = whole.choices[0].message.to_dict(), whole.choices[0].finish_reason, whole.usage
    calls = [
        (each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in message.get("tool_calls") or ()
    ]
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens
    return Seen(
        request_id,
        (message.get("content") or "") + (message.get("refusal") or ""),
        message.get("reasoning_content") or "",
        calls,
        reason,
        usage.prompt_tokens,
        usage.prompt_cache_hit_tokens,
        usage.completion_tokens,
        usage.completion_tokens_details.reasoning_tokens,
        usage.steelyard["charge"],
    )


def _joined(chunks: list[Any]) -> tuple[dict[str, Any], str | None]:
    """The message that a stream of chunks makes."""
    message: dict[str, Any] = {"content": "", "refusal": "", "reasoning_content": ""}
    calls: dict[int, Any] = {}
    reason = None
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        delta = choice.delta.to_dict()
        for name in message:
            message[name] += delta.get(name) or ""
        for piece in delta.get("tool_calls") or ():
            call = calls.setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
            for name in ("name", "arguments"):
                call["function"][name] += piece["function"].get(name) or ""
        reason = choice.finish_reason or reason
    return {**message, "tool_calls": list(calls.values())}, reason


def messages(platform: Platform, key: str, model: str, scene: str, scenario: str, stream: bool) -> Seen:
    tools = [{"name": name, "input_schema": PARAMETERS} for name in ("weather", "time")]
    extra: Any = {"tools": tools} if scenario == "tools" else {}
    if scenario == "form":
        extra = {"output_config": {"format": {"type": "json_schema", "schema": FORM}}}
    if scenario == "cached":
        extra = {"system": [{"type": "text", "text": LONG, **MARK}]}
    asked = {"model": model, "max_tokens": 2000, "messages": [user(scene)], **extra}
    with anthropic.Anthropic(base_url=platform.url, api_key=key, max_retries=0) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                whole = events.get_final_message()
        else:
            whole = client.messages.create(**asked)
    usage = whole.usage.to_dict()
    assert whole.usage.cache_creation_input_tokens is not None
    seen = Seen(whole.id.replace("msg_", "req_"), reason=whole.stop_reason)
    for block in whole.content:
        seen.text += block.text if block.type == "text" else ""
        seen.thinking += block.thinking if block.type == "thinking" else ""
        seen.calls += [(block.name, block.input)] if block.type == "tool_use" else []
    details = whole.to_dict().get("stop_details") or {}
    seen.text += details.get("explanation") or ""
    seen.cached = usage["cache_read_input_tokens"]
    seen.prompt = usage["input_tokens"] + seen.cached + usage["cache_creation_input_tokens"]
    seen.output = usage["output_tokens"]
    seen.thought = usage["output_tokens_details"]["thinking_tokens"]
    seen.charge = usage.get("steelyard", {}).get("charge")  # the library's stream keeps no fields it does not know
    return seen


def responses(platform: Platform, key: str, model: str, scene: str, scenario: str, stream: bool) -> Seen:
    tools = [
        {"type": "function", "name": name, "parameters": PARAMETERS, "strict": False} for name in ("weather", "time")
    ]
    extra: Any = {"tools": tools} if scenario == "tools" else {}
    if scenario == "form":
        extra = {"text": {"format": {"type": "json_schema", "name": "f", "schema": FORM}}}
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=key, max_retries=0) as client:
        asked = {"model": model, "input": [user(scene)], "store": False, **extra}
        if stream:
            whole = list(client.responses.create(**asked, stream=True))[-1].response
        else:
            whole = client.responses.create(**asked)
    usage = whole.usage.to_dict()
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    seen = Seen(whole.id.replace("resp_", "req_"), reason=whole.status)
    for item in whole.output:
        if item.type == "message":
            seen.text += "".join(part.text if part.type == "output_text" else part.refusal for part in item.content)
        elif item.type == "reasoning":
            seen.thinking += "".join(part.text for part in item.content or ())
        else:
            seen.calls.append((item.name, json.loads(item.arguments)))
    seen.cached = usage["input_tokens_details"]["cached_tokens"]
    seen.prompt, seen.output = usage["input_tokens"], usage["output_tokens"]
    seen.thought = usage["output_tokens_details"]["reasoning_tokens"]
    seen.charge = usage["steelyard"]["charge"]
    return seen


CLIENTS: dict[str, Callable[..., Seen]] = {"chat": chat, "messages": messages, "responses": responses}


# --- what is expected ----------------------------------------------------------------------------------------------

SCENES = {
    MODEL: {"tools": "parallel", "thinking": "reasoning", "refusal": "refusal", "form": "form"},
    CLAUDE_MODEL: {"tools": "parallel", "thinking": "thinking", "refusal": "refusal", "form": "form"},
}
SAID = {
    (MODEL, "tools"): "",
    (CLAUDE_MODEL, "tools"): "Let me look.",
    (MODEL, "refusal"): "I cannot do that.",
    (CLAUDE_MODEL, "refusal"): "I That could do harm.",
}
TEXTS = {"thinking": "42", "form": '{"city": "Bern"}'}
OUTPUTS = {
    MODEL: {"tools": 20, "thinking": 9, "refusal": 5, "form": 8},
    CLAUDE_MODEL: {"tools": 30, "thinking": 9, "refusal": 2, "form": 8},
}
REASONS = {
    "chat": {"tools": "tool_calls", "refusal": {MODEL: "stop", CLAUDE_MODEL: "content_filter"}},
    "messages": {"tools": "tool_use", "refusal": "refusal"},
    "responses": {"refusal": {MODEL: "completed", CLAUDE_MODEL: "incomplete"}},
}
PLAIN_REASON = {"chat": "stop", "messages": "end_turn", "responses": "completed"}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("scenario", ["text", "tools", "thinking", "refusal", "form", "cached"])
@pytest.mark.parametrize("model", [MODEL, CLAUDE_MODEL])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_said_arrives_and_is_paid_once(
    platform: Platform, books: Books, client: str, model: str, scenario: str, stream: bool
) -> None:
    scene = SCENES[model].get(scenario, "hello")
    seen = CLIENTS[client](platform, books.key, model, scene, scenario, stream)
    assert seen.text == SAID.get((model, scenario), TEXTS.get(scenario, "Hello"))
    assert seen.thinking == ("Let me see." if scenario == "thinking" else "")
    assert seen.calls == ([("weather", {"city": "Bern"}), ("time", {"zone": "utc"})] if scenario == "tools" else [])
    reason = REASONS[client].get(scenario, PLAIN_REASON[client])
    assert seen.reason == (reason[model] if isinstance(reason, dict) else reason)
    assert seen.output == OUTPUTS[model].get(scenario, 3)
    assert seen.thought == (6 if scenario == "thinking" else 0)
    marked = scenario == "cached" and client != "responses"  # that dialect has no marks
    assert (seen.cached > 0) == (model == MODEL or marked)
    found = receipt_of(platform, seen.request_id, books.key)
    assert (found["prompt_tokens"], found["cached_tokens"], found["output_tokens"]) == (
        seen.prompt,
        seen.cached,
        seen.output,
    )
    assert seen.charge in {found["amount"], None}
    assert (seen.charge is None) == (client == "messages" and stream)
    books.charges_nano.append(found["amount_nano"])


THINK: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
STEP = {"type": "object", "properties": {"turn": {"type": "integer"}}}


def paid(platform: Platform, books: Books, request_id: str) -> None:
    books.charges_nano.append(receipt_of(platform, request_id, books.key)["amount_nano"])


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_chat_hands_signed_thinking_back(platform: Platform, books: Books, stream: bool) -> None:
    """The upstream refuses a call that comes back without the thinking it was made with."""
    tool = {"type": "function", "function": {"name": "step", "parameters": STEP}}
    turns: list[Any] = [user("loop 3")]
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=books.key, max_retries=0) as client:
        for turn in range(4):
            asked: Any = {"model": CLAUDE_MODEL, "messages": turns, "tools": [tool], "extra_body": THINK}
            if stream:
                with client.chat.completions.stream(**asked) as events:
                    completion = events.get_final_completion()
            else:
                completion = client.chat.completions.create(**asked)
            paid(platform, books, completion.id.replace("chatcmpl-", "req_"))
            message = completion.choices[0].message.to_dict()
            if not message.get("tool_calls"):
                break
            assert [block["thinking"] for block in message["thinking_blocks"]] == [f"Step {turn}"]
            (call,) = message["tool_calls"]
            turns += [message, {"role": "tool", "tool_call_id": call["id"], "content": "done"}]
    assert (turn, message["content"]) == (3, "Hello")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_message_hands_signed_thinking_back(platform: Platform, books: Books, stream: bool) -> None:
    turns: list[Any] = [user("loop 3")]
    tools = [{"name": "step", "input_schema": STEP}]
    with anthropic.Anthropic(base_url=platform.url, api_key=books.key, max_retries=0) as client:
        for turn in range(4):
            asked: Any = {"model": CLAUDE_MODEL, "messages": turns, "tools": tools, "max_tokens": 2000, **THINK}
            if stream:
                with client.messages.stream(**asked) as events:
                    message = events.get_final_message()
            else:
                message = client.messages.create(**asked)
            paid(platform, books, message.id.replace("msg_", "req_"))
            if message.stop_reason != "tool_use":
                break
            assert message.content[0].thinking == f"Step {turn}"
            blocks = [block.to_dict() for block in message.content]
            result = {"type": "tool_result", "tool_use_id": message.content[1].id, "content": "done"}
            turns += [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    assert (turn, message.content[0].text) == (3, "Hello")


@pytest.mark.parametrize("store", [False, True], ids=["handed", "stored"])
def test_a_response_hands_signed_thinking_back(platform: Platform, books: Books, store: bool) -> None:
    tool: Any = {"type": "function", "name": "step", "parameters": STEP, "strict": False}
    before: Any = {}
    items: list[Any] = [user("loop 3")]
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=books.key, max_retries=0) as client:
        for turn in range(4):  # noqa: B007
            asked: Any = {"model": CLAUDE_MODEL, "input": items, "tools": [tool], "store": store, **before}
            response = client.responses.create(**asked, extra_body=THINK)
            paid(platform, books, response.id.replace("resp_", "req_"))
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                break
            result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "done"}
            if store:
                items, before = [result], {"previous_response_id": response.id}
            else:
                items += [*(item.to_dict() for item in response.output), result]
    assert (turn, response.output_text) == (3, "Hello")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_completion_where_there_are_any(platform: Platform, books: Books, stream: bool) -> None:
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=books.key, max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt="Go", stream=stream)
        parts = list(answer) if stream else [answer]
        assert "".join(part.choices[0].text for part in parts if part.choices) == "Hello"
        paid(platform, books, parts[0].id.replace("cmpl-", "req_"))
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=CLAUDE_MODEL, prompt="Go", stream=stream)
        assert caught.value.param == "prompt"


def test_a_refusal_of_the_upstreams_names_the_field_as_it_was_sent(platform: Platform, books: Books) -> None:
    image = "data:image/png;base64,AAAA"
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=books.key, max_retries=0) as client:
        part: Any = {"type": "image_url", "image_url": {"url": image}}
        turns: Any = [{"role": "system", "content": "Hi"}, user("hello"), {"role": "user", "content": [part]}]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=CLAUDE_MODEL, messages=turns)
        assert caught.value.param == "messages[2].content"
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=CLAUDE_MODEL, messages=turns[:2], seed=7)
        assert caught.value.param == "seed"
        item: Any = {"type": "input_image", "image_url": image}
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=CLAUDE_MODEL, input=[turns[1], {"role": "user", "content": [item]}])
        assert caught.value.param == "input[1].content"
    with anthropic.Anthropic(base_url=platform.url, api_key=books.key, max_retries=0) as claude:
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        block: Any = {"type": "image", "source": source}
        asked: Any = {"model": CLAUDE_MODEL, "max_tokens": 9, "system": "Hi"}
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[1\]\.content"):
            claude.messages.create(messages=[user("hello"), {"role": "user", "content": [block]}], **asked)
        tools: Any = [{"name": "step", "input_schema": {"type": "string"}}]
        with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.input_schema"):
            claude.messages.create(messages=[user("hello")], tools=tools, **asked)


@pytest.mark.parametrize(("scene", "status"), [("busy", 429), ("overloaded", 429), ("forbidden", 502), ("unpaid", 502)])
def test_whose_turn_it_is(platform: Platform, books: Books, scene: str, status: int) -> None:
    """What is ours to mend is no fault of the customer's, and he reads nothing of it."""
    model = BUSY_MODEL if scene == "busy" else CLAUDE_MODEL
    with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=books.key, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model=model, messages=[user(scene)])
        assert caught.value.status_code == status
        assert caught.value.response.headers.get("retry-after") == {"busy": "7", "overloaded": "1"}.get(scene)
        assert "API key" not in str(caught.value) and "Payment" not in str(caught.value)


def test_counts_and_betas_reach_the_upstream(platform: Platform, books: Books) -> None:
    with anthropic.Anthropic(base_url=platform.url, api_key=books.key, max_retries=0) as client:
        asked: Any = {"model": CLAUDE_MODEL, "messages": [user("hello")], "system": "Hi"}
        counted = client.messages.count_tokens(**asked).input_tokens
        message = client.beta.messages.create(**asked, max_tokens=50, betas=["context-1m-2025-08-07"])
        assert counted == message.usage.input_tokens
        paid(platform, books, message.id.replace("msg_", "req_"))
    assert b"anthropic-beta: context-1m-2025-08-07\r\n" in books.heads[-1]


def test_the_bill_is_the_sum_of_the_receipts(platform: Platform, books: Books) -> None:
    """Stands last: what all of the above was charged is what the books have."""
    (row,) = [row for row in platform.run("usage", "--by", "tenant") if row["name"] == CUSTOMER]
    assert row["charge_nano"] == sum(books.charges_nano)
    assert row["requests"] >= len(books.charges_nano), "the rest was refused by an upstream and cost nothing"
    wallet = wait_for(
        lambda: (w := platform.wallet(CUSTOMER))["held_nano"] == 0 and w, "the last hold to be given back"
    )
    assert wallet["balance_nano"] == 100 * 10**9 - sum(books.charges_nano)
    assert platform.run("verify")["ok"] is True
