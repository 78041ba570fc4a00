"""A local engine in its own process, asked through the adapter: what the tests of both engines share."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import Raw

from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Event
from steelyard.upstream.head import header_block
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool, Request

KEY = "the-engine-key"
CONTEXT = 1024


def start(module: str, data: Path, *options: str, key: str = KEY) -> "subprocess.Popen[str]":
    """A module of `steelyard.processes`."""
    command = [sys.executable, "-m", f"steelyard.processes.{module}", "--data", str(data), "--context", str(CONTEXT)]
    return subprocess.Popen(
        [*command, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STEELYARD_ENGINE_KEY": key},
    )


@dataclass(frozen=True)
class Engine:
    greeting: dict[str, Any]
    data: Path
    process: "subprocess.Popen[str]"

    @property
    def offer(self) -> Offer:
        told = self.greeting
        return Offer(1, "m", "local", told["address"], told["model"], told["context_tokens"], told["context_tokens"])

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


def greeted(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    word, _, greeting = process.stdout.readline().partition(" ")
    assert word == "ready", process.communicate()
    told: dict[str, Any] = json.loads(greeting)
    return told


@contextmanager
def running(module: str, data: Path, *options: str) -> Iterator[Engine]:
    """It ends when told to, and says nothing but its greeting."""
    with start(module, data, *options) as process:
        try:
            yield Engine(greeted(process), data, process)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        # What OpenVINO says of a stand-in that is thrown away, for each form that cannot be kept, is its own affair.
        said = [line for line in process.stderr if " leaked " not in line]
        assert said == [], "the engine keeps quiet"


def failure(module: str, data: Path, *options: str, key: str = KEY) -> str:
    """What an engine that cannot start says: one line."""
    with start(module, data, *options, key=key) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1, err
    return err


@asynccontextmanager
async def adapter() -> AsyncIterator[LlamaCpp]:
    pool = Pool()
    yield LlamaCpp("local", pool, KEY)
    await pool.close()


def params(text: str, **fields: Any) -> dict[str, Raw]:
    whole = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
    return {name: Raw(msgspec.json.encode(value)) for name, value in whole.items()}


async def answer(upstream: LlamaCpp, offer: Offer, asked: dict[str, Raw], max_tokens: int) -> tuple[str, Event]:
    """The text and the last event; counts are checked to rise on the way."""
    text, last = "", Event()
    async for event in upstream.stream(offer, asked, max_tokens, b""):
        assert event.usage.output >= last.usage.output
        assert event.usage.prompt >= last.usage.prompt
        text, last = text + event.text, event
    return text, last


async def busy(engine: Engine, pool: Pool) -> int:
    """Sequences it is decoding."""
    host, _, port = engine.greeting["address"].partition(":")
    request = Request("local", host, int(port), "GET", "/slots", header_block({"authorization": f"Bearer {KEY}"}))
    async with await pool.request(request) as response:
        return sum(slot["is_processing"] for slot in msgspec.json.decode(await response.body(1 << 20)))
