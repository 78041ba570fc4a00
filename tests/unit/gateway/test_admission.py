"""What a worker has on it bounds what it takes: new requests are refused early, what runs goes on."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.parties import KEY, ScriptedUpstream, words
from tests.unit.gateway.test_public import Site, chat, request, status_of

from steelyard.gateway.admission import Admission, Load, refusal
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("load", "more_bytes", "status", "wait_s"),
    [
        (Load(), limits.BODY_BYTES_MAX, None, None),
        (Load(limits.SLOTS_PER_WORKER - 1), 1, None, None),
        (Load(limits.SLOTS_PER_WORKER), 1, 429, 1),
        (Load(9, limits.BODIES_BYTES_MAX - 10), 10, None, None),
        (Load(9, limits.BODIES_BYTES_MAX - 10), 11, 429, 1),
        (Load(0, limits.BODIES_BYTES_MAX), MB, None, None),
        (Load(9, 0, limits.LOOP_LATE_MS_MAX), 1, None, None),
        (Load(9, 0, limits.LOOP_LATE_MS_MAX + 1), 1, 503, 2),
        (Load(9, 0, 60_000), 1, 503, limits.OVERLOADED_RETRY_AFTER_S_MAX),
        (Load(0, 0, 60_000), 1, None, None),
    ],
)
def test_the_rule(load: Load, more_bytes: int, status: int | None, wait_s: int | None) -> None:
    error = refusal(load, more_bytes)
    assert (error and error.status, error and error.retry_after_s) == (status, wait_s)


async def test_what_enters_counts_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 100)
    admission = Admission()
    assert admission.enter(b"60") == 60 and admission.enter(b"") == 0 and admission.enter(b"x") == 0
    assert admission.add(40) == 40
    with pytest.raises(CallerError) as refused:
        admission.enter(b"1")
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert admission.load == Load(3, 100)
    for held_bytes in (60, 40, 0):
        admission.leave(held_bytes)
    assert admission.load == Load()
    assert admission.enter(b"9" * 30) == limits.BODY_BYTES_MAX, "one that is too long is told so when it is read"


async def test_a_loop_that_is_late_twice_is_a_load_and_one_stall_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOP_LATE_MS_MAX", 50)
    admission = Admission()
    admission.enter(b"")
    time.sleep(0.3)
    await asyncio.sleep(0)
    assert admission.load.late_ms <= 50
    admission.enter(b"")
    while admission.load.late_ms <= 50:
        time.sleep(0.3)
        await asyncio.sleep(0)
    with pytest.raises(CallerError) as refused:
        admission.enter(b"")
    assert (refused.value.status, refused.value.code) == (503, "busy")
    async with asyncio.timeout(10):
        while admission.load.late_ms > 50:
            await asyncio.sleep(0.01)
    admission.enter(b"")


class Patient(ScriptedUpstream):
    """Says its first word, and the others when the gate opens."""

    def __init__(self) -> None:
        super().__init__(words("a", "b"))
        self.gate = asyncio.Event()

    async def stream(self, *order: object) -> AsyncIterator[object]:
        async for event in super().stream(*order):
            yield event
            await self.gate.wait()


@pytest.mark.parametrize("front", ["fast", "asgi"])
async def test_prompts_fill_the_memory_there_is_and_streams_go_on(
    front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = chat(stream=True, messages=[{"role": "user", "content": "x" * 5000}])
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 2 * len(long) - 1)
    site = Site(tmp_path, upstream := Patient())
    site.front = front
    async with site.open():
        running = asyncio.ensure_future(site.ask(request(long)))
        await site.until(lambda: upstream.running, "the first stream")
        unread = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        unread += f"content-length: {len(long)}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(unread.encode() + b"{")
        refused = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert status_of(refused) == 429 and b"retry-after: 1\r\n" in refused.lower(), "before its body was there"
        writer.close()
        short = asyncio.ensure_future(site.ask(request(chat(stream=True))))
        await site.until(lambda: upstream.running == 2, "a short one, which has room")
        upstream.gate.set()
        assert b"[DONE]" in await running and b"[DONE]" in await short
        assert status_of(await site.ask(request(long))) == 200, "and there is room again"
