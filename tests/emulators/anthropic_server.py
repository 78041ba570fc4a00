"""A server of Anthropic's Messages API that does what the last user turn says: `scene: NAME`. Real HTTP on loopback.

Deterministic. As strict as the real one where a translation may go wrong: keys, versions, unknown fields, empty texts,
calls without results, thinking that was not signed here. Real clients are driven against it in its own test.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.emulators.openai_server import CUT, Body, OpenAIServer

KEY = "sk-ant-emulated"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
FIELDS = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "stream", "tools", "tool_choice", "thinking", "output_config"),
        *("stop_sequences", "temperature", "top_p", "top_k", "metadata", "cache_control", "flavour"),
    }
)
SECRET_TEXT = "an internal path: /secret"
Event = tuple[str, Body]


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers


# --- the prompt -----------------------------------------------------------------------------------------------------


def count(body: Body) -> int:
    """Tokens of a prompt: one for each four letters of what the model reads."""
    read = {name: body[name] for name in ("system", "messages", "tools") if name in body}
    return len(re.sub(r'"cache_control": \{[^}]*\}', "", json.dumps(read))) // 4


def prompt_usage(body: Body) -> Body:
    """Disjoint: what a marked prompt wrote to the cache and read from it is not in `input_tokens`."""
    total = count(body)
    marked = "cache_control" in json.dumps(body)
    read, written = (total // 2, total // 4) if marked else (0, 0)
    return {
        "input_tokens": total - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
    }


def signed(thinking: str) -> str:
    return "EqQB" + hashlib.sha256(thinking.encode()).hexdigest()[:24]


def check(head: bytes, body: Body, counting: bool) -> None:
    lines = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
    if lines.get(b"x-api-key") != KEY.encode() and lines.get(b"authorization") != b"Bearer " + KEY.encode():
        raise Refused(401, "authentication_error", f"invalid x-api-key: {lines.get(b'x-api-key', b'').decode()}")
    if b"anthropic-version" not in lines:
        raise Refused(400, "invalid_request_error", "anthropic-version: header is required")
    for name in body:
        if name not in FIELDS:
            raise Refused(400, "invalid_request_error", f"{name}: Extra inputs are not permitted")
    if not counting and not isinstance(body.get("max_tokens"), int):
        raise Refused(400, "invalid_request_error", "max_tokens: Field required")
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled" and not 1024 <= thinking["budget_tokens"] < body.get("max_tokens", 10**9):
        raise Refused(400, "invalid_request_error", "thinking.enabled.budget_tokens: must be ≥1024 and < max_tokens")
    if not body.get("messages"):
        raise Refused(400, "invalid_request_error", "messages: at least one message is required")
    check_turns(body["messages"])
    if thinking.get("type") == "enabled":
        check_thought(body["messages"])
    used = '"type": "tool_use"' in json.dumps(body["messages"])
    if used and not body.get("tools"):
        raise Refused(400, "invalid_request_error", "Requests which have `tool_use` blocks must have `tools` defined")
    for place, tool in enumerate(body.get("tools") or ()):
        if tool["input_schema"].get("type") != "object":
            message = f"tools.{place}.custom.input_schema.type: Input should be 'object'"
            raise Refused(400, "invalid_request_error", message)


def check_turns(messages: list[Body]) -> None:
    waiting: set[str] = set()
    before = ""
    for place, message in enumerate(messages):
        blocks = blocks_of(message)
        at = f"messages.{place}"
        if message["role"] == before and message["role"] != "system":
            raise Refused(400, "invalid_request_error", f"{at}: the emulator wants roles to alternate")
        before = message["role"]
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if waiting - results or results - waiting:
            why = "`tool_use` ids were found without `tool_result` blocks immediately after"
            raise Refused(400, "invalid_request_error", f"{at}.content.0: {why}")
        first_other = next((n for n, block in enumerate(blocks) if block["type"] != "tool_result"), len(blocks))
        if first_other < len(results):
            raise Refused(400, "invalid_request_error", f"{at}: `tool_result` blocks come first")
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
        for number, block in enumerate(blocks):
            check_block(block, f"{at}.content.{number}")
    if waiting:
        raise Refused(400, "invalid_request_error", "messages: the last calls have no results")


def check_thought(messages: list[Body]) -> None:
    """A call that was thought about first comes back with its thinking, for as long as its results are the last."""
    place = max((n for n, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if place is None:
        return
    blocks = blocks_of(messages[place])
    if any(block["type"] == "tool_use" for block in blocks) and "thinking" not in blocks[0]["type"]:
        why = f"Expected `thinking` or `redacted_thinking`, but found `{blocks[0]['type']}`"
        raise Refused(400, "invalid_request_error", f"messages.{place}.content.0.type: {why}")


def check_block(block: Body, at: str) -> None:
    if block["type"] == "text" and not block["text"]:
        raise Refused(400, "invalid_request_error", f"{at}.text: text content blocks must be non-empty")
    if block["type"] == "tool_use" and not re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]):
        raise Refused(400, "invalid_request_error", f"{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if block["type"] == "thinking" and block["signature"] != signed(block["thinking"]):
        raise Refused(400, "invalid_request_error", f"{at}: Invalid `signature` in `thinking` block")
    if block["type"] == "image" and block["source"].get("data") == "AAAA":
        raise Refused(400, "invalid_request_error", f"{at}.image.source.base64: Could not process image")


def blocks_of(message: Body) -> list[Body]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# --- the answer -----------------------------------------------------------------------------------------------------


def started(body: Body, usage: Body | None = None) -> Event:
    message: Body = {"id": "msg_emulated", "type": "message", "role": "assistant", "model": body["model"]}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    message["usage"] = {**prompt_usage(body), "output_tokens": 1} if usage is None else usage
    return "message_start", {"message": message}


def text(place: int, *pieces: str) -> list[Event]:
    return [
        ("content_block_start", {"index": place, "content_block": {"type": "text", "text": ""}}),
        *(("content_block_delta", {"index": place, "delta": {"type": "text_delta", "text": each}}) for each in pieces),
        ("content_block_stop", {"index": place}),
    ]


def thinking(place: int, *pieces: str, shown: bool = True) -> list[Event]:
    """Omitted thinking has a signature all the same."""
    said = pieces if shown else ()
    deltas: list[Body] = [{"type": "thinking_delta", "thinking": each} for each in said]
    deltas.append({"type": "signature_delta", "signature": signed("".join(said))})
    block = {"type": "thinking", "thinking": "", "signature": ""}
    return [
        ("content_block_start", {"index": place, "content_block": block}),
        *(("content_block_delta", {"index": place, "delta": delta}) for delta in deltas),
        ("content_block_stop", {"index": place}),
    ]


def redacted(place: int) -> list[Event]:
    block = {"type": "redacted_thinking", "data": "ciphertext"}
    return [
        ("content_block_start", {"index": place, "content_block": block}),
        ("content_block_stop", {"index": place}),
    ]


def tool(place: int, call_id: str, name: str, *pieces: str) -> list[Event]:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": each} for each in ("", *pieces)]
    return [
        ("content_block_start", {"index": place, "content_block": block}),
        *(("content_block_delta", {"index": place, "delta": delta}) for delta in deltas),
        ("content_block_stop", {"index": place}),
    ]


def ended(body: Body, output: int, reason: str = "end_turn", thought: int = 0, **delta: Any) -> list[Event]:
    usage = {**prompt_usage(body), "output_tokens": output, "output_tokens_details": {"thinking_tokens": thought}}
    usage.pop("cache_creation"), usage.pop("service_tier")
    told = {"stop_reason": reason, "stop_sequence": None, "stop_details": None, **delta}
    return [("message_delta", {"delta": told, "usage": usage}), ("message_stop", {})]


PING: Event = ("ping", {})
ERROR: Event = ("error", {"error": {"type": "overloaded_error", "message": f"Overloaded at {SECRET_TEXT}"}})
Scene = Callable[[Body], list[Event]]


def hello(body: Body) -> list[Event]:
    return [started(body), PING, *text(0, "Hel", "lo"), *ended(body, 3)]


def stopped(body: Body) -> list[Event]:
    met = (body.get("stop_sequences") or ["END"])[-1]
    return [started(body), *text(0, "Hel", "lo"), *ended(body, 3, "stop_sequence", stop_sequence=met)]


def parallel(body: Body) -> list[Event]:
    return [
        started(body),
        *text(0, "Let me look."),
        *tool(1, "toolu_a", "weather", '{"city":', ' "Bern"}'),
        *tool(2, "toolu_b", "time", '{"zone": "utc"}'),
        *ended(body, 30, "tool_use"),
    ]


def loop(body: Body) -> list[Event]:
    """A call per turn, thought about first, until the tool has answered as often as asked: `scene: loop 30`."""
    answered = sum(block["type"] == "tool_result" for message in body["messages"] for block in blocks_of(message))
    if answered >= int(words(body)[1]):
        return hello(body)
    thought = thinking(0, f"Step {answered}") if body.get("thinking") else []
    made = tool(len(thought) and 1, f"toolu_{answered}", "step", json.dumps({"turn": answered}))
    return [started(body), *thought, *made, *ended(body, 9, "tool_use", 4 if thought else 0)]


def thoughtful(body: Body) -> list[Event]:
    shown = (body.get("thinking") or {}).get("display") != "omitted"
    return [started(body), *thinking(0, "Let me ", "see.", shown=shown), *text(1, "42"), *ended(body, 9, thought=6)]


def hidden(body: Body) -> list[Event]:
    return [
        started(body),
        *thinking(0, "First"),
        *redacted(1),
        *thinking(2, "second"),
        *text(3, "42"),
        *ended(body, 9, thought=7),
    ]


def refusing(body: Body) -> list[Event]:
    details = {"type": "refusal", "category": "cyber", "explanation": "That could do harm."}
    return [started(body), *text(0, "I "), *ended(body, 2, "refusal", stop_details=details)]


def formed(body: Body) -> list[Event]:
    """An answer in the form that was asked for: the first choice of every property."""
    schema = body["output_config"]["format"]["schema"]
    said = json.dumps({name: each["enum"][0] for name, each in schema["properties"].items()})
    return [started(body), *text(0, said[:5], said[5:]), *ended(body, 8)]


def at_once(body: Body) -> list[Event]:
    """A call whose arguments stand in its first event, as some servers send them, and one that takes nothing."""
    block = {"type": "tool_use", "id": "toolu_a", "name": "weather", "input": {"city": "Bern"}}
    whole = [("content_block_start", {"index": 0, "content_block": block}), ("content_block_stop", {"index": 0})]
    return [started(body), *whole, *tool(1, "toolu_b", "time"), *ended(body, 12, "tool_use")]


def uncounted(body: Body) -> list[Event]:
    return [
        started(body, {"input_tokens": 0, "output_tokens": 0}),
        *text(0, "word " * 100),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0}}),
        ("message_stop", {}),
    ]


def late(body: Body) -> list[Event]:
    """Counts of the prompt only at the end, as some vendors give them."""
    return [started(body, {"input_tokens": 0, "output_tokens": 0}), *text(0, "Hel", "lo"), *ended(body, 3)]


SCENES: dict[str, Scene] = {
    "hello": hello,
    "stopped": stopped,
    "parallel": parallel,
    "loop": loop,
    "thinking": thoughtful,
    "hidden": hidden,
    "refusal": refusing,
    "form": formed,
    "at_once": at_once,
    "uncounted": uncounted,
    "late": late,
    "long": lambda body: [started(body), *text(0, "Hel", "lo"), *ended(body, body["max_tokens"], "max_tokens")],
    "window": lambda body: [started(body), *text(0, "Hel"), *ended(body, 2, "model_context_window_exceeded")],
    "pause": lambda body: [started(body), *text(0, "Hel"), *ended(body, 2, "pause_turn")],
    "error": lambda body: [started(body), *text(0, "Hel", "lo")[:2], ERROR],
    "error_at_once": lambda body: [started(body), *text(0, "Hel", "lo"), ERROR],
    "unfinished": lambda body: [started(body), *text(0, "Hel", "lo")],
    "cut": lambda body: [started(body), *text(0, "Hel", "lo"), ("cut", {})],
}
IN_ONE_READ = frozenset({"error_at_once"})
FAILURES = {
    "busy": Refused(429, "rate_limit_error", "This request would exceed your rate limit", **{"retry-after": "7"}),
    "overloaded": Refused(529, "overloaded_error", "Overloaded"),
    "broken": Refused(500, "api_error", "Internal server error"),
    "forbidden": Refused(403, "permission_error", "Your API key may not use this"),
    "unpaid": Refused(402, "billing_error", "Payment required"),
    "penniless": Refused(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API"),
    "gone": Refused(404, "not_found_error", "model: their-m"),
    "huge": Refused(413, "request_too_large", "Request exceeds the maximum size"),
}


def words(body: Body) -> list[str]:
    asked = [
        block["text"]
        for message in body["messages"]
        if message["role"] == "user"
        for block in blocks_of(message)
        if block["type"] == "text" and block["text"].startswith("scene: ")
    ]
    return asked[-1].removeprefix("scene: ").split() if asked else ["hello"]


def whole(events: list[Event]) -> Body:
    """The message that a stream of these events makes."""
    message: Body = {}
    for kind, fields in events:
        match kind:
            case "message_start":
                message = fields["message"]
            case "content_block_start":
                message["content"].append({**fields["content_block"], "json": ""})
            case "content_block_delta":
                block, delta = message["content"][-1], dict(fields["delta"])
                delta.pop("type")
                ((name, said),) = delta.items()
                block["json" if name == "partial_json" else name] += said
            case "message_delta":
                message |= fields["delta"]
                message["usage"] |= fields["usage"]
    for block in message["content"]:
        if arguments := block.pop("json"):
            block["input"] = json.loads(arguments)
    return message


class AnthropicServer(OpenAIServer):
    """Runs in a thread of its own; `bodies` and `heads` keep what was asked."""

    def answer(self, head: bytes, body: Body) -> Iterator[bytes]:
        path = head.split(b" ")[1].partition(b"?")[0]
        try:
            counting = path.endswith(b"/count_tokens")
            if not path.endswith((b"/v1/messages", b"/v1/messages/count_tokens")):
                raise Refused(404, "not_found_error", "Not found")
            check(head, body, counting)
            if counting:
                yield plain({"input_tokens": count(body)})
                return
            name = words(body)[0]
            if name in FAILURES:
                raise FAILURES[name]
            events = SCENES[name](body)
        except Refused as refused:
            error = {"type": refused.kind, "message": refused.message}
            said = {"type": "error", "error": error, "request_id": "req_emulated"}
            yield plain(said, refused.status, refused.headers)
            return
        if body.get("stream"):
            yield from streamed(events, name in IN_ONE_READ)
        else:
            yield plain(whole(events))


def plain(value: object, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    said = json.dumps(value).encode()
    lines = {"content-type": "application/json", "request-id": "req_emulated", **(headers or {})}
    head = "".join(f"{name}: {line}\r\n" for name, line in lines.items())
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, head.encode(), len(said), said)


def streamed(events: list[Event], in_one_read: bool) -> Iterator[bytes]:
    pieces = [
        CUT if kind == "cut" else f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
        for kind, fields in events
    ]
    if in_one_read:
        pieces = [b"".join(pieces)]
    chunks = [piece if piece is CUT else b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    if in_one_read:
        yield HEAD + chunks[0] + b"0\r\n\r\n"
        return
    yield HEAD
    yield from chunks
    yield b"0\r\n\r\n"
