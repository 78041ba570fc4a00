"""A vendor of OpenAI's chat dialect, emulated: what all of them have in common. One vendor's ways are overridden.

Owns the form of chunks, whole answers and error bodies as OpenAI has them. An emulator checks what its vendor checks,
so that an adapter which gets something wrong is refused here as it would be there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from steelyard.emulators.script import Call, Script, script_of
from steelyard.emulators.server import CUT, HELD, Heard, Piece, Stream, Whole

KEY = "emulated-key"
"""The key that every emulator takes, if its vendor has keys of no other form."""

_CREATED = 1_790_000_000
_DONE = b"data: [DONE]\n\n"

Body = dict[str, Any]


class Refused(Exception):
    """A request that the vendor would not take. `answer` is how it says so."""

    def __init__(self, answer: Whole) -> None:
        super().__init__(answer.status)
        self.answer = answer


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def thinking_type(body: Body) -> str | None:
    """`thinking.type`, where it was sent; "" for what is no such object."""
    if body.get("thinking") is None:
        return None
    found = body["thinking"].get("type") if isinstance(body["thinking"], dict) else ""
    return found if isinstance(found, str) else ""


class Chat:
    """A vendor that does all as OpenAI does. `name` is a kind of upstream."""

    name = "openai"
    base = "/v1"
    models: tuple[str, ...] = ("emulated-model",)
    errors: Mapping[str, tuple[int, object]] = {
        "bad_request": (400, {"type": "invalid_request_error", "code": None}),
        "auth": (401, {"type": "invalid_request_error", "code": "invalid_api_key"}),
        "no_money": (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
        "rate_limited": (429, {"type": "requests", "code": "rate_limit_exceeded"}),
        "content": (400, {"type": "invalid_request_error", "code": "content_policy_violation"}),
        "model_missing": (404, {"type": "invalid_request_error", "code": "model_not_found"}),
        "server": (500, {"type": "server_error", "code": None}),
    }
    """Fault → status, and what stands in `error` beside the message."""
    messages: Mapping[str, str] = {}
    """Fault → the vendor's sentence, where it matters."""
    ends: Mapping[str, str] = {}
    """Scene → the finish reason that only this vendor has."""

    # --- what a vendor may do differently

    def is_key(self, heard: Heard) -> bool:
        """Whether the credential is one it takes."""
        return heard.headers.get("authorization") == f"Bearer {KEY}"

    def check(self, body: Body) -> None:
        """Raises Refused for what the vendor does not take."""

    def is_thinking(self, body: Body) -> bool:
        """Whether the model reasons before it answers this."""
        return False

    def scripted(self, body: Body, script: Script) -> Script:
        """What the model says, as this vendor parts it."""
        return script

    def script(self, body: Body) -> Script:
        """What the model says to this."""
        return self.scripted(body, script_of(body, is_thinking=self.is_thinking(body)))

    def usage(self, script: Script) -> Body:
        """The counts, by the vendor's names."""
        return {
            "prompt_tokens": script.prompt_tokens,
            "completion_tokens": script.output_tokens,
            "total_tokens": script.prompt_tokens + script.output_tokens,
            "prompt_tokens_details": {"cached_tokens": script.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": len(script.reasoning)},
        }

    def thought(self, text: str) -> Body:
        """A piece of reasoning, as fields of a delta or of a message."""
        return {"reasoning_content": text}

    def thoughts(self, script: Script) -> Iterator[Body]:
        """The pieces of reasoning in a stream."""
        return map(self.thought, script.reasoning)

    def beside(self, call: Call, place: int) -> Body:
        """What stands beside a call's function; `place` is which of the answer's calls it is."""
        return {}

    def closing(self, body: Body, script: Script, end: Body) -> Iterator[Piece]:
        """The end of a stream. `end` is the chunk with the finish reason."""
        yield event(end)
        if script.is_counted and (body.get("stream_options") or {}).get("include_usage"):
            yield event({**end, "choices": [], "usage": self.usage(script)})

    def before(self, script: Script) -> tuple[Piece, ...]:
        """What comes ahead of an answer in one piece."""
        return ()

    def before_stream(self, script: Script) -> tuple[Piece, ...]:
        """What comes ahead of a stream."""
        return ()

    def other(self, heard: Heard) -> Whole | None:
        """An answer at a path that is not everybody's."""
        return None

    # --- what is everybody's

    def answer(self, heard: Heard) -> Whole | Stream:
        """See `server.Emulator`."""
        if not self.is_key(heard):
            return self.refusal("auth")
        if (found := self.other(heard)) is not None:
            return found
        path = heard.path.removeprefix(self.base)
        if path == "/models":
            listed = [
                {"id": model, "object": "model", "created": _CREATED, "owned_by": self.name} for model in self.models
            ]
            return Whole(200, {"object": "list", "data": listed})
        if path != "/chat/completions" or not heard.path.startswith(self.base):
            return Whole(404, {"error": {"message": f"There is nothing at {heard.path}."}})
        try:
            return self._said(heard)
        except Refused as refused:
            return refused.answer

    def failing(self, heard: Heard, fault: str) -> Whole | Stream:
        """See `server.Emulator`."""
        if fault in {"cut", "hang"}:
            return Stream([CUT if fault == "cut" else HELD])
        return self.refusal(fault)

    def refusal(self, fault: str, message: str = "") -> Whole:
        """The vendor's own no."""
        status, inner = self.errors.get(fault) or self.errors["server"]
        headers = {"retry-after": "7"} if fault == "rate_limited" else {}
        said = message or self.messages.get(fault, f"emulated {fault}")
        return Whole(status, self.error_body(said, inner), headers)

    def error_body(self, message: str, inner: Any) -> Any:
        """The form of an error: OpenAI's."""
        return {"error": {"message": message, **inner}}

    def refuse(self, message: str, fault: str = "bad_request") -> Refused:
        """What `check` raises."""
        return Refused(self.refusal(fault, message))

    def _said(self, heard: Heard) -> Whole | Stream:
        body = heard.body
        if not isinstance(body.get("model"), str) or not isinstance(body.get("messages"), list) or not body["messages"]:
            raise self.refuse("model and messages are required")
        self.check(body)
        script = self.script(body)
        if script.instead:
            raise Refused(self.refusal(script.instead))
        finish = self.ends.get(script.scene, script.finish)
        if body.get("stream"):
            return Stream(self._pieces(body, script, finish, heard.number))
        message: Body = {"role": "assistant", "content": "".join(script.texts) or None}
        if script.reasoning:
            message |= self.thought("".join(script.reasoning))
        if script.calls:
            message["tool_calls"] = [self._call(call, place, call.arguments) for place, call in enumerate(script.calls)]
        whole = self._chunk(body, heard.number, "chat.completion")
        whole["choices"] = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
        counted = {"usage": self.usage(script)} if script.is_counted else {}
        return Whole(200, whole | counted, before=self.before(script))

    def _pieces(self, body: Body, script: Script, finish: str, number: int) -> Iterator[Piece]:
        chunk = self._chunk(body, number, "chat.completion.chunk")

        def delta(finish_reason: str | None = None, **fields: Any) -> Body:
            return {**chunk, "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}

        yield from self.before_stream(script)
        yield event(delta(role="assistant", content=""))
        for thought in self.thoughts(script):
            yield event(delta(**thought))
        for place, text in enumerate(script.texts):
            yield event(delta(content=text))
            if script.then and place == 0:
                yield from self._then(script.then)
                return
        for place, call in enumerate(script.calls):
            first, second = call.pieces
            yield event(delta(tool_calls=[{"index": place, **self._call(call, place, first)}]))
            yield event(delta(tool_calls=[{"index": place, "function": {"arguments": second}}]))
        yield from self.closing(body, script, delta(finish))
        yield _DONE

    def _call(self, call: Call, place: int, arguments: str) -> Body:
        function = {"name": call.name, "arguments": arguments}
        return {"id": call.id, "type": "function", "function": function, **self.beside(call, place)}

    def _then(self, what: str) -> Iterator[Piece]:
        if what == "error":
            yield event(self.refusal("server").body)
        else:
            yield CUT if what == "cut" else HELD

    def _chunk(self, body: Body, number: int, kind: str) -> Body:
        return {"id": f"emulated-{number}", "object": kind, "created": _CREATED, "model": body["model"]}
