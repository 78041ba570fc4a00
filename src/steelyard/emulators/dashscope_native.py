"""DashScope's own API, emulated: two paths, everything under `parameters`, streams that repeat the text unless asked.

Facts: dashscope 2.0.2 for paths, headers and events; help.aliyun.com for the examples of events, read 2026-11.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from steelyard.emulators.chat import Body, Chat, Refused
from steelyard.emulators.dashscope import bounded, check_words
from steelyard.emulators.script import Script
from steelyard.emulators.server import CUT, HELD, Heard, Piece, Stream, Whole

_TEXT = "/services/aigc/text-generation/generation"
_PARTS = "/services/aigc/multimodal-generation/generation"
_REQUEST = "emulated"


class DashScopeNative(Chat):
    """Scene `stubborn`: repeats the text though it was asked for what is new. Scene `written`: writes to a cache."""

    name = "dashscope_native"
    base = "/api/v1"
    models = ("qwen-plus", "qwen3.7-max", "qwen-vl-max")
    errors = {
        "bad_request": (400, "InvalidParameter"),
        "auth": (401, "InvalidApiKey"),
        "no_money": (400, "Arrearage"),
        "rate_limited": (429, "Throttling.RateQuota"),
        "quota": (429, "Throttling.AllocationQuota"),
        "content": (400, "DataInspectionFailed"),
        "model_missing": (404, "ModelNotFound"),
        "server": (500, "InternalError.Algo"),
    }

    def error_body(self, message: str, inner: object) -> Body:
        return {"code": inner, "message": message, "request_id": _REQUEST}

    def is_thinking(self, body: Body) -> bool:
        return body.get("enable_thinking") is True

    def answer(self, heard: Heard) -> Whole | Stream:
        """Where a stream was asked for, a no is framed as its only event, under its own status."""
        said = self._answer(heard)
        if isinstance(said, Stream) or said.status == 200 or heard.headers.get("x-dashscope-sse") != "enable":
            return said
        frame = b"id:1\nevent:error\n:HTTP_STATUS/%d\ndata:" % said.status
        return replace(said, before=(frame,), headers={**said.headers, "content-type": "text/event-stream"})

    def _answer(self, heard: Heard) -> Whole | Stream:
        if not self.is_key(heard):
            return self.refusal("auth")
        path = heard.path.removeprefix(self.base)
        if path not in {_TEXT, _PARTS} or not heard.path.startswith(self.base):
            return Whole(404, self.error_body("", ""))
        try:
            return self._generation(heard, path == _PARTS)
        except Refused as refused:
            return refused.answer

    def _generation(self, heard: Heard, in_parts: bool) -> Whole | Stream:
        fields = self._fields(heard.body, in_parts)
        is_stream = heard.headers.get("x-dashscope-sse") == "enable"
        if self.is_thinking(fields) and not (is_stream and fields.get("incremental_output")):
            raise self.refuse("parameter.enable_thinking only support stream with incremental_output")
        script = bounded(fields, self.script({**fields, "max_tokens": None, "max_completion_tokens": None}))
        if script.instead:
            raise Refused(self.refusal(script.instead))
        form = _Form(fields, script, in_parts)
        if is_stream:
            return Stream(self._events(form))
        return Whole(200, form.body(script.reasoning, script.texts, script.calls, script.output_tokens, script.finish))

    def _fields(self, body: Body, in_parts: bool) -> Body:
        """The turns and the parameters as one object."""
        turns = body.get("input", {}).get("messages") if isinstance(body.get("input"), dict) else None
        if not isinstance(body.get("model"), str) or not isinstance(turns, list) or not turns:
            raise self.refuse("model and input.messages are required")
        if in_parts != all(isinstance(turn.get("content"), list) for turn in turns) and (
            in_parts or "-vl" in body["model"]
        ):
            raise self.refuse("url error, please check url！")
        fields = {**(body.get("parameters") or {}), "messages": turns, "model": body["model"]}
        check_words(self, fields)
        return fields

    def _events(self, form: "_Form") -> Iterator[Piece]:
        """Numbered; each with what is new, or all of it again, and the counts so far."""
        script = form.script
        for number, (thoughts, texts, calls, output, finish) in enumerate(form.steps(), 1):
            yield _event(number, 200, form.body(thoughts, texts, calls, output, finish))
            if script.then and texts:
                if script.then == "error":
                    status, _ = self.errors["server"]
                    yield _event(number + 1, status, self.refusal("server").body)
                else:
                    yield CUT if script.then == "cut" else HELD
                return


def _event(number: int, status: int, body: Body) -> bytes:
    kind = "result" if status == 200 else "error"
    return b"id:%d\nevent:%b\n:HTTP_STATUS/%d\ndata:%b\n\n" % (number, kind.encode(), status, msgspec.json.encode(body))


_Step = tuple[tuple[str, ...], tuple[str, ...], tuple[Any, ...], int, str]


class _Form:
    """One answer in this API's form."""

    def __init__(self, fields: Body, script: Script, in_parts: bool) -> None:
        self.script = script
        self._in_parts = in_parts
        self._repeats = not fields.get("incremental_output") or script.scene == "stubborn"
        self._is_message = fields.get("result_format") == "message" or in_parts

    def steps(self) -> Iterator[_Step]:
        """What each event says: thoughts, texts, calls, the tokens so far, the end. The end that comes has no text of
        its own, or all of it again."""
        script = self.script
        thoughts = [((text,), (), ()) for text in script.reasoning]
        texts = [((), (text,), ()) for text in script.texts]
        calls = [((), (), (call,)) for call in script.calls]
        said: tuple[Any, Any, Any] = ((), (), ())
        for step in (*thoughts, *texts, *calls):
            new = tuple(before + now for before, now in zip(said, step, strict=True))
            said = (new[0], new[1], new[2])
            output = len(said[0]) + len(said[1]) + 2 * len(said[2])
            told = said if self._repeats else step
            yield *told, output, "null"
        yield *(said if self._repeats else ((), (), ())), script.output_tokens, script.finish

    def body(
        self, thoughts: tuple[str, ...], texts: tuple[str, ...], calls: tuple[Any, ...], output: int, finish: str
    ) -> Body:
        text = "".join(texts)
        if not self._is_message:
            return {"output": {"text": text, "finish_reason": finish}, **self._counted(output, len(thoughts))}
        message: Body = {"role": "assistant", "content": [{"text": text}] if self._in_parts and text else text}
        if self.script.reasoning:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = [
                {
                    "index": self.script.calls.index(call),
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        choices = [{"message": message, "finish_reason": finish}]
        return {"output": {"choices": choices}, **self._counted(output, min(output, len(self.script.reasoning)))}

    def _counted(self, output: int, thought: int) -> Body:
        if not self.script.is_counted:
            return {"request_id": _REQUEST}
        prompt = self.script.prompt_tokens
        details: Body = {"cached_tokens": self.script.cached_tokens}
        if self.script.scene == "written":
            details["cache_creation_input_tokens"] = prompt // 4
        usage: Body = {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}
        usage |= {"prompt_tokens_details": details, "output_tokens_details": {"reasoning_tokens": thought}}
        return {"usage": usage, "request_id": _REQUEST}
