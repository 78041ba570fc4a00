"""A server of OpenAI's chat dialect that does what the last user turn says: `scene: NAME`. Real HTTP on loopback.

Deterministic: every scene is a list of bytes. It can do what real servers were seen to do, and worse: several usages,
none, usage in every chunk, errors inside a 200 stream, answers that are cut.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.emulators.reading_scenes import answer_to

Body = dict[str, Any]
CUT = b"cut"
HELD = b"held"
DONE = b"data: [DONE]\n\n"
PROMPT, CACHED = 40, 8
LONG_PROMPT = 400  # with tools: a count below what their text must at least be is not believed


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(finish: str | None = None, usage: object = None, **fields: Any) -> bytes:
    chunk: Body = {"id": "x", "object": "chat.completion.chunk", "model": "m", "created": 1}
    chunk["choices"] = [{"index": 0, "delta": fields, "finish_reason": finish}]
    return event(chunk | ({} if usage is None else {"usage": usage}))


def usage(output: int, prompt: int = PROMPT, cached: int = CACHED, reasoning: int = 0) -> Body:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def counted(counts: Body) -> bytes:
    return event({"choices": [], "usage": counts})


def call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> Body:
    made: Body = {"index": index, "function": {"arguments": arguments}}
    if call_id is not None:
        made |= {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return made


GREETING = delta(role="assistant", content="")
HELLO = [GREETING, delta(content="Hel"), delta(content="lo")]
STOP = delta("stop")


def parallel_calls(body: Body) -> list[bytes]:
    return [
        GREETING,
        delta(tool_calls=[call(0, "", "call_a", "weather")]),
        delta(tool_calls=[call(0, '{"city":"Bern"}'), call(1, "", "call_b", "time")]),
        delta(tool_calls=[call(1, '{"zone":'), call(1, '"utc"}')]),
        delta("tool_calls"),
        counted(usage(20)),
        DONE,
    ]


def unnumbered(index: int | None) -> Callable[[Body], list[bytes]]:
    """Two calls whose pieces all have the same index, or none: only their ids tell them apart."""

    def calls(body: Body) -> list[bytes]:
        pieces = [
            *(call(0, "", "call_a", "weather"), call(0, '{"city":'), call(0, '"Bern"}')),
            *(call(0, '{"zone":', "call_b", "time"), call(0, '"utc"}')),
        ]
        said = [delta(tool_calls=[piece | {"index": index}]) for piece in pieces]
        return [GREETING, *said, delta("tool_calls"), counted(usage(20)), DONE]

    return calls


def formed(body: Body) -> list[bytes]:
    """An answer in the form that was asked for: the first choice of every property."""
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    said = json.dumps({name: each["enum"][0] for name, each in properties.items()})
    return [GREETING, delta(content=said[:5]), delta(content=said[5:]), STOP, counted(usage(8)), DONE]


def loop(body: Body) -> list[bytes]:
    """A call per turn until the tool has answered as often as the user asked: `scene: loop 30`."""
    answered = sum(turn["role"] == "tool" for turn in body["messages"])
    if answered >= int(_words(body)[1]):
        return [*HELLO, STOP, counted(usage(2, PROMPT + 10 * answered, 10 * answered)), DONE]
    made = call(0, json.dumps({"turn": answered}), f"call_{answered}", "step")
    return [
        GREETING,
        delta(tool_calls=[made]),
        delta("tool_calls"),
        counted(usage(9, PROMPT + 10 * answered, 10 * answered)),
        DONE,
    ]


def every_tool(body: Body) -> list[bytes]:
    """A call of each tool that was offered, its arguments made from its schema; once they are answered, a greeting."""
    if body["messages"][-1]["role"] == "tool":
        return [*HELLO, STOP, counted(usage(3, LONG_PROMPT)), DONE]
    offered = [tool["function"] for tool in body["tools"]]
    begun = [call(index, "", f"call_{index}", tool["name"]) for index, tool in enumerate(offered)]
    said = [call(index, json.dumps(filled(tool["parameters"]))) for index, tool in enumerate(offered)]
    pieces = [delta(tool_calls=[piece]) for pair in zip(begun, said, strict=True) for piece in pair]
    return [GREETING, *pieces, delta("tool_calls"), counted(usage(20, LONG_PROMPT)), DONE]


def filled(schema: Body) -> Any:
    """The smallest value that such a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: filled(each) for name, each in schema.get("properties", {}).items()}
    return {"string": "Bern", "integer": 3, "number": 1.5, "boolean": True, "array": []}[schema["type"]]


def by_schema(body: Body) -> list[bytes]:
    """What the demanded schema demands, in two pieces; without one the scene is no scene."""
    text = json.dumps(filled(body["response_format"]["json_schema"]["schema"]))
    return [GREETING, delta(content=text[:9]), delta(content=text[9:]), STOP, counted(usage(7)), DONE]


def _met(name: str, text: str) -> bytes:
    """An end that says which stop text was met."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", name: text}]})


SCENES: dict[str, Callable[[Body], list[bytes]]] = {
    "hello": lambda body: [*HELLO, STOP, counted(usage(3)), DONE],
    "stopped": lambda body: [*HELLO, _met("stop_reason", "END"), counted(usage(3)), DONE],
    "matched": lambda body: [*HELLO, _met("matched_stop", "END"), counted(usage(3)), DONE],
    "parallel": parallel_calls,
    "form": formed,
    "parallel_null": unnumbered(None),
    "parallel_zero": unnumbered(0),
    "error_at_once": lambda body: [b"".join([*HELLO, event({"error": {"message": "overloaded"}})])],
    "loop": loop,
    "tools": every_tool,
    "schema": by_schema,
    "held": lambda body: [GREETING, delta(content="Hel"), HELD],
    "flaky": lambda body: [*HELLO, STOP, counted(usage(3)), DONE],
    "reasoning": lambda body: [
        GREETING,
        delta(reasoning_content="Let me "),
        delta(reasoning="see."),
        delta(content="42"),
        STOP,
        counted(usage(9, reasoning=6)),
        DONE,
    ],
    "refusal": lambda body: [
        GREETING,
        delta(refusal="I cannot"),
        delta(refusal=" do that."),
        STOP,
        counted(usage(5)),
        DONE,
    ],
    "cut": lambda body: [*HELLO, CUT],
    "unfinished": lambda body: HELLO,
    "usage_twice": lambda body: [*HELLO, STOP, counted(usage(3)), counted(usage(3)), DONE],
    "usage_never": lambda body: [*HELLO, STOP, DONE],
    "usage_everywhere": lambda body: [
        delta(role="assistant", content="", usage=usage(0)),
        delta(content="Hel", usage=usage(1)),
        delta(content="lo", usage=usage(2)),
        delta("stop", usage=usage(3)),
        DONE,
    ],
    "usage_zeros": lambda body: [
        delta(content="Hello", usage=usage(0, 0, 0)),
        delta("stop", usage=usage(3)),
        DONE,
    ],
    "usage_only_zeros": lambda body: [*HELLO, STOP, counted(usage(0, 0, 0)), DONE],
    "usage_never_in_one_piece": lambda body: [delta(content="word " * 100), STOP, DONE],
    "usage_and_no_done": lambda body: [*HELLO, STOP, counted(usage(3))],
    "comments": lambda body: [
        b": keep-alive\n\n",
        *HELLO[:2],
        b": keep-alive\n\n",
        HELLO[2],
        STOP,
        counted(usage(3)),
        DONE,
    ],
    "error": lambda body: [*HELLO[:2], event({"error": {"message": "out of memory at /secret", "code": 500}}), DONE],
    "abort": lambda body: [*HELLO[:2], delta("abort"), DONE],
    "filtered": lambda body: [*HELLO[:2], delta("content_filter"), counted(usage(2)), DONE],
}
STATUSES = {"busy": 429, "refused": 400, "broken": 500, "penniless": 402}


def _words(body: Body) -> list[str]:
    asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user" and turn.get("content")] or [""]
    asked = asked[-1]
    text = asked if isinstance(asked, str) else "".join(part.get("text", "") for part in asked)
    return text.removeprefix("scene: ").split()


class OpenAIServer:
    """Runs in a thread of its own; `bodies` keeps what was asked. With `tls` it is an https server."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[Body] = []
        self._tls = tls
        self.heads: list[bytes] = []
        self.port = 0
        self._failed: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "OpenAIServer":
        ready = threading.Event()
        self._loop.call_soon(lambda: self._loop.create_task(self._listen(ready)))
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_forever()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))

    async def _listen(self, ready: threading.Event) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        ready.set()

    def answer(self, head: bytes, body: Body) -> Iterator[bytes]:
        """The bytes of an answer, HTTP and all; `CUT` ends the connection. `scene: flaky NAME` is busy once."""
        if (read := answer_to(head.split(b" ", 2)[1].decode(), body)) is not None:
            return iter([whole(*read)])
        name = " ".join(_words(body)) if "messages" in body else ""
        if name.startswith("flaky ") and name not in self._failed:
            self._failed.add(name)
            return answer_of(body, "busy")
        return answer_of(body)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length) or b"{}")
                self.heads.append(head)
                self.bodies.append(body)
                for piece in self.answer(head, body):
                    if piece is CUT:
                        return
                    if piece is HELD:  # until the other side hangs up
                        await reader.read()
                        return
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()


def whole(status: int, body: Body) -> bytes:
    """An answer in one piece."""
    said = json.dumps(body).encode()
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(said)) + said


def in_one_piece(pieces: list[bytes]) -> Body:
    """What the events of a stream say, as a body."""
    events = [json.loads(line[6:]) for line in b"".join(pieces).split(b"\n\n") if line.startswith(b"data: {")]
    message: Body = {"role": "assistant", "content": None}
    calls: dict[int, Body] = {}
    made: Body = {"id": "x", "object": "chat.completion", "model": "m", "created": 1}
    for said in events:
        made |= {name: said[name] for name in ("usage", "error") if name in said}
        for choice in said.get("choices", ()):
            for name, value in choice["delta"].items():
                if name == "tool_calls":
                    for piece in value:
                        begun = calls.setdefault(piece["index"], {"type": "function", "function": {"arguments": ""}})
                        begun |= {"id": piece["id"]} if "id" in piece else {}
                        arguments = begun["function"]["arguments"] + piece["function"]["arguments"]
                        begun["function"] |= piece["function"] | {"arguments": arguments}
                elif name != "role":
                    field = "reasoning_content" if name == "reasoning" else name
                    message[field] = (message.get(field) or "") + value
            made["choices"] = [{"index": 0, "message": message, "finish_reason": choice["finish_reason"]}]
    if calls:
        message["tool_calls"] = [*calls.values()]
    return made


def answer_of(body: Body, instead: str | None = None) -> Iterator[bytes]:
    """The bytes of an answer, HTTP and all."""
    name = instead or next(iter(_words(body) if "messages" in body else ()), "hello")
    if name not in SCENES and name not in STATUSES:  # anybody's own words
        name = "hello"
    if name in STATUSES:
        said = json.dumps({"error": {"message": f"{name} it is", "type": "x", "code": name}}).encode()
        yield b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (STATUSES[name], len(said), said)
        return
    if "messages" in body and not body.get("stream"):
        yield whole(200, in_one_piece(SCENES[name](body)))
        return
    yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = SCENES[name](body) if "messages" in body else _completion()
    for piece in pieces:
        yield piece if piece in {CUT, HELD} else b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _completion() -> list[bytes]:
    logprobs = {"tokens": ["Hel"], "token_logprobs": [-0.5], "top_logprobs": [{"Hel": -0.5}], "text_offset": [0]}
    return [
        event({"choices": [{"index": 0, "text": "Hel", "logprobs": logprobs, "finish_reason": None}]}),
        event({"choices": [{"index": 0, "text": "lo", "finish_reason": "length"}]}),
        counted(usage(2)),
        DONE,
    ]
