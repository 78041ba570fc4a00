"""`python -m steelyard.processes.scripted`: a loopback upstream whose every token is known beforehand.

Speaks the engine's dialect with exact counts on every chunk: one token per event, the words t1, t2, t3 … How many and
how fast stands in the prompt ("40 tokens, 3 ms apart"), and so does what it does wrong ("past the cap", "usage twice").
`steelyard prove` sells it like any model, at prices that are filled in. Counts no money itself.
"""

import argparse
import asyncio
import re
import signal

import msgspec

from steelyard.kernel import limits
from steelyard.processes.lifeline import watch_parent

UPSTREAM = "scripted"
MODEL = "scripted"
PROMPT = "{tokens} tokens, {pace_ms} ms apart, please."
PAST_THE_CAP, USAGE_TWICE = "past the cap", "usage twice"  # what a prompt may ask for besides
PRICES = f"""
[[price]]
model = "{MODEL}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "{{input}}"
cached_input = "{{cached_input}}"
output = "{{output}}"
source = "an upstream for proofs and measurements"

[[cost]]
upstream = "{UPSTREAM}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
cpu_hour = "0.10"
watts_per_busy_core = "8"
kwh = "0.60"
source = "an upstream for proofs and measurements"
"""
"""A price file for it; prices per million tokens are filled in."""

_ASKED = re.compile(r"(\d+) tokens, (\d+) ms apart")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
_REFUSED = (
    b"HTTP/1.1 400 X\r\ncontent-length: 60\r\n\r\n"
    + b'{"error":{"message":"ask for tokens","type":"invalid"}}'.ljust(60)
)
_EVENT = (
    b'data: {"choices":[{"index":0,"finish_reason":null,"delta":{"content":"t%d "}}],'
    b'"timings":{"cache_n":%d,"prompt_n":%d,"predicted_n":%d}}\n\n'
)
_FINISH = (
    b'data: {"choices":[{"index":0,"finish_reason":"%b","delta":{}}],'
    b'"timings":{"cache_n":%d,"prompt_n":%d,"predicted_n":%d}}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":%d}}}\n\n'
    b"data: [DONE]\n\n"
)


class _Message(msgspec.Struct):
    content: str


class _Question(msgspec.Struct):
    messages: list[_Message]
    max_tokens: int


_decode = msgspec.json.Decoder(_Question).decode


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One keep-alive connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if head.startswith(b"GET"):
                writer.write(_WELL)
            else:
                await _answer(body, writer)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


async def _answer(body: bytes, writer: asyncio.StreamWriter) -> None:
    question = _decode(body)
    prompt = question.messages[-1].content
    asked = _ASKED.search(prompt)
    if asked is None:
        writer.write(_REFUSED)
        return
    tokens, pace_s = int(asked[1]), int(asked[2]) / 1000
    words = len(prompt.split())
    cached, fresh = words // 2, words - words // 2
    most = tokens if PAST_THE_CAP in prompt else min(tokens, question.max_tokens)
    writer.write(_HEAD)
    for place in range(1, most + 1):
        _write_chunk(writer, _EVENT % (place, cached, fresh, place))
        await writer.drain()
        if writer.is_closing():
            raise ConnectionError("the caller has hung up")
        await asyncio.sleep(pace_s)
    reason = b"length" if most < tokens else b"stop"
    end = _FINISH % (reason, cached, fresh, most, words, most, cached)
    if USAGE_TWICE in prompt:
        finish, usage, done = end.split(b"\n\n", 2)
        end = b"\n\n".join((finish, usage, usage, done))
    _write_chunk(writer, end)
    writer.write(b"0\r\n\r\n")


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def run(port: int) -> None:
    """Serve until SIGTERM or until the parent is gone. Prints `ready`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    watch_parent(loop, stop.set)
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=limits.BODY_BYTES_MAX)
    print("ready", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="steelyard-scripted", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(run(parser.parse_args().port))


if __name__ == "__main__":
    main()
