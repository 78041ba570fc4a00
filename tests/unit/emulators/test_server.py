"""The server below every emulator: what it can be told to do wrong, and that it does no more than that."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from steelyard.emulators.chat import KEY, Chat
from steelyard.emulators.script import script_of
from steelyard.emulators.server import Mood, Served
from steelyard.kernel import limits

Told = tuple[int, Any]


@pytest.fixture
async def served() -> AsyncGenerator[Served, None]:
    one = Served(Chat())
    await one.start()
    yield one
    await one.stop()


async def exchange(served: Served, path: str, body: Any, *, key: str = KEY) -> bytes:
    """The whole answer, or what came of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    said = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(said)}\r\n\r\n".encode() + said)
    try:
        return await reader.read()
    finally:
        writer.close()


async def told(served: Served, path: str, body: Any, **how: Any) -> Told:
    answer = await exchange(served, path, body, **how)
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(rest.split(b"\r\n")[1])


def asked(scene: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"scene: {scene}"}], **fields}


CHAT = "/v1/chat/completions"


async def test_moods_change_while_it_runs_and_what_is_no_mood_is_refused(served: Served) -> None:
    assert (await told(served, "/_mood", {"failing_permille": 1000, "faults": ["server"]}))[0] == 200
    assert (await told(served, CHAT, asked("hello")))[0] == 500
    for wrong in ({"failing_permille": "often"}, {"temper": 1}):
        assert (await told(served, "/_mood", wrong))[0] == 400
    assert (await told(served, CHAT, asked("hello")))[0] == 500, "a wrong word changes nothing"
    assert (await told(served, "/_mood", {}))[0] == 200
    assert (await told(served, CHAT, asked("hello")))[0] == 200


async def test_above_its_concurrency_it_is_too_busy(served: Served) -> None:
    served.mood = Mood(concurrency=1)
    held = asyncio.create_task(exchange(served, CHAT, asked("hang", stream=True)))
    async with asyncio.timeout(20):
        while served.running == 0:
            await asyncio.sleep(0.01)
    assert (await told(served, CHAT, asked("hello")))[0] == 429
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    async with asyncio.timeout(20):
        while served.running:
            await asyncio.sleep(0.01)
    assert (await told(served, CHAT, asked("hello")))[0] == 200


async def test_what_is_not_http_or_too_long_ends_the_connection_and_nothing_else(served: Served) -> None:
    long = f"POST {CHAT} HTTP/1.1\r\ncontent-length: {limits.BODY_BYTES_MAX + 1}\r\n\r\n"
    for said in (b"hello\r\n\r\n", b"GET\r\n\r\n", long.encode(), b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(said)
        assert await reader.read() == b""
        writer.close()
    assert (await told(served, CHAT, asked("hello")))[0] == 200


async def test_it_remembers_no_more_than_it_may(served: Served) -> None:
    for _ in range(3):
        await told(served, CHAT, asked("hello"))
    assert [one.number for one in served.heard] == [1, 2, 3]
    served.heard = served.heard * limits.EMULATOR_HEARD_MAX
    await told(served, CHAT, asked("hello"))
    assert len(served.heard) == limits.EMULATOR_HEARD_MAX


async def test_a_wrong_key_or_path_or_no_question_is_no_answer(served: Served) -> None:
    assert (await told(served, CHAT, asked("hello"), key="x"))[0] == 401
    assert (await told(served, "/v2/chat/completions", asked("hello")))[0] == 404
    for wrong in ({}, {"model": "m"}, {"model": "m", "messages": []}, {"messages": [{}]}):
        assert (await told(served, CHAT, wrong))[0] == 400


def test_a_script_is_the_same_each_time_and_within_its_cap() -> None:
    turns = [{"role": "user", "content": "What is the weather in Bern?"}]
    script = script_of({"messages": turns}, is_thinking=True)
    assert script == script_of({"messages": turns}, is_thinking=True)
    assert "'Bern?'" in "".join(script.texts) and "6 words" in "".join(script.texts)
    cut = script_of({"messages": turns, "max_tokens": 3}, is_thinking=True)
    assert (cut.output_tokens, cut.finish, len(cut.reasoning)) == (3, "length", 2)
    more = [*turns, {"role": "assistant", "content": "Rain."}, {"role": "user", "content": "And tomorrow?"}]
    later = script_of({"messages": more}, is_thinking=False)
    assert 0 < script.prompt_tokens <= later.cached_tokens < later.prompt_tokens, "the turns before are cached"
