"""The Anthropic dialect in front of an OpenAI server that does the worst real ones do: shown = receipt = ledger."""

import json
from typing import Any

import pytest
from tests.e2e.test_messages import agree, post, receipt_of
from tests.e2e.vendor import MODEL
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform, wait_for
from tests.unit.gateway.test_messages_answer import blocks_of, events

TURNS = 30
MARK = {"cache_control": {"type": "ephemeral"}}
TOOLS = [
    {"name": name, "description": name, "input_schema": {"type": "object", "properties": {}}}
    for name in ("weather", "time", "step")
]


def scene(name: str) -> list[Any]:
    return [{"role": "user", "content": f"scene: {name}"}]


def ask(platform: Platform, name: str, **fields: Any) -> tuple[int, bytes, dict[str, str]]:
    return post(platform, model=MODEL, messages=scene(name), max_tokens=50, **fields)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["hello", "usage_twice", "usage_everywhere", "usage_never", "comments", "reasoning"])
def test_what_is_shown_is_what_is_posted(platform: Platform, server: OpenAIServer, name: str, stream: bool) -> None:
    status, body, headers = ask(platform, name, stream=stream)
    assert status == 200, body
    usage = events(body)[-2]["usage"] if stream else json.loads(body)["usage"]
    assert agree(usage, receipt_of(platform, headers["request-id"]))
    assert usage["steelyard"].get("estimated", False) == (name == "usage_never")
    assert usage["output_tokens_details"] == {"thinking_tokens": 6 if name == "reasoning" else 0}


@pytest.mark.parametrize(
    ("name", "blocks", "reason"),
    [
        ("hello", [{"type": "text", "text": "Hello"}], "end_turn"),
        (
            "parallel",
            [
                {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Bern"}},
                {"type": "tool_use", "id": "call_b", "name": "time", "input": {"zone": "utc"}},
            ],
            "tool_use",
        ),
        ("refusal", [{"type": "text", "text": "I cannot do that."}], "refusal"),
        ("filtered", [{"type": "text", "text": "Hel"}], "refusal"),
    ],
)
def test_what_the_server_says_in_this_dialect(
    platform: Platform, server: OpenAIServer, name: str, blocks: list[Any], reason: str
) -> None:
    whole = json.loads(ask(platform, name, tools=TOOLS)[1])
    assert (whole["content"], whole["stop_reason"]) == (blocks, reason)
    seen = events(ask(platform, name, tools=TOOLS, stream=True)[1])
    assert (blocks_of(seen), seen[-2]["delta"]["stop_reason"]) == (blocks, reason)


def test_thinking_comes_first(platform: Platform, server: OpenAIServer) -> None:
    thinking, text = json.loads(ask(platform, "reasoning")[1])["content"]
    assert (thinking["type"], thinking["thinking"], text["text"]) == ("thinking", "Let me see.", "42")
    assert thinking["signature"]


@pytest.mark.parametrize("name", ["cut", "error", "unfinished", "abort"])
def test_a_failure_is_told_in_this_dialect(platform: Platform, server: OpenAIServer, name: str) -> None:
    status, body, headers = ask(platform, name, stream=True)
    last = events(body)[-1] if status == 200 else json.loads(body)  # all in one read: nothing had begun
    assert (last["type"], last["request_id"]) == ("error", headers["request-id"])
    assert last["error"]["type"] in {"api_error", "overloaded_error"}
    assert b"secret" not in body
    found = receipt_of(platform, headers["request-id"])
    assert (found["end"], found["output_tokens"] > 0) == ("upstream_error", status == 200)
    status, body, _ = ask(platform, name)
    assert (status, json.loads(body)["error"]["type"]) in {(502, "api_error"), (503, "overloaded_error")}


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [("busy", 529, "overloaded_error"), ("refused", 400, "invalid_request_error"), ("broken", 503, "overloaded_error")],
)
def test_what_the_server_refuses(platform: Platform, server: OpenAIServer, name: str, status: int, kind: str) -> None:
    got, body, _ = ask(platform, name)
    assert (got, json.loads(body)["error"]["type"]) == (status, kind)


def test_thinking_and_marks_reach_the_server(platform: Platform, server: OpenAIServer) -> None:
    block = {"type": "text", "text": "Be brief.", **MARK}
    ask(platform, "hello", system=[block], thinking={"type": "adaptive"}, output_config={"effort": "high"})
    sent = server.bodies[-1]
    assert sent["messages"][0] == {"role": "system", "content": [block]}
    assert (sent["thinking"], sent["reasoning_effort"]) == ({"type": "adaptive"}, "high")


def test_a_server_that_cannot_count_is_404(platform: Platform, server: OpenAIServer) -> None:
    status, body, _ = post(platform, "/v1/messages/count_tokens", model=MODEL)
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")


def test_a_tool_loop_of_thirty_turns_adds_up(platform: Platform, server: OpenAIServer) -> None:
    """As a coding agent does it: streamed, a marked system text, the whole conversation again in every turn."""
    name = "agent-of-thirty-turns"
    key = platform.new_customer(name)
    system = [{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Use your tools.", **MARK}]
    messages: list[dict[str, Any]] = scene(f"loop {TURNS}")
    asked = {"model": MODEL, "system": system, "tools": TOOLS, "max_tokens": 400, "thinking": {"type": "adaptive"}}
    shown, ids = [], []
    for turn in range(TURNS + 1):
        _, body, headers = post(
            platform, "/v1/messages?beta=true", key=key, messages=messages, stream=turn % 2 == 0, **asked
        )
        ids.append(headers["request-id"])
        if turn % 2:
            message = json.loads(body)
            blocks, reason, usage = message["content"], message["stop_reason"], message["usage"]
        else:
            seen = events(body)
            blocks, reason, usage = blocks_of(seen), seen[-2]["delta"]["stop_reason"], seen[-2]["usage"]
        shown.append(usage)
        if reason != "tool_use":
            break
        (use,) = blocks
        assert use["input"] == {"turn": turn}
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": f"did {turn}"}]}
        messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": [{**result, **MARK}]}]
    assert (len(ids), reason) == (TURNS + 1, "end_turn")
    receipts = [receipt_of(platform, each, key) for each in ids]
    assert all(agree(usage, receipt) for usage, receipt in zip(shown, receipts, strict=True))
    (row,) = [row for row in platform.run("usage", "--by", "tenant") if row["name"] == name]
    charged = sum(receipt["amount_nano"] for receipt in receipts)
    assert (row["requests"], row["charge_nano"]) == (len(ids), charged)
    wallet = wait_for(lambda: (w := platform.wallet(name))["held_nano"] == 0 and w, "the last hold to be given back")
    assert wallet["balance_nano"] == 100 * 10**9 - charged
    assert platform.run("verify")["ok"] is True
