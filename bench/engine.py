"""`make bench-engine`: both local engines side by side, as `steelyard up` starts them, asked through their adapter.

One answer alone (tokens a second, CPU time per token), a prompt nobody asked before, the same prompt again, and many at
once. The engines take turns, and only one of them runs at a time. CPU seconds are no joules.
"""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import Raw

from bench.report import RUNS_MIN, Report
from steelyard.cli.services import engine_service, openvino_service
from steelyard.config import Settings, load_settings
from steelyard.engines.choice import OPENVINO, XLLAMACPP, Asked, choose, machine_here
from steelyard.engines.converted import folder_of, make
from steelyard.engines.leash import KEY_VARIABLE
from steelyard.kernel.offers import Offer
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool
from steelyard.upstream.weights import cache_directory, fetch

_MANY, _MANY_TOKENS, _ALONE_TOKENS = 32, 16, 64
_FIGURES = {
    "decode": "one answer alone, tokens/s",
    "decode_cpu": "one answer alone, CPU ms/token",
    "prefill": "a new prompt of about 500 tokens, tokens/s",
    "cold": "its first token, ms",
    "warm": "first token of the same prompt again, ms",
    "many": f"{_MANY} answers at once, tokens/s",
    "many_cpu": f"{_MANY} answers at once, CPU ms/token",
    "rss": "RSS after it all, MB",
    "load": "start to ready, s",
}


async def _nothing(greeting: str) -> None:
    return None


@contextmanager
def running(name: str, settings: Settings, weights: Path) -> Iterator[tuple[Offer, psutil.Process, float]]:
    """An engine as the platform would start it, where to ask it, and how long its start took."""
    if name == XLLAMACPP:
        service = engine_service(settings, weights, "key", _nothing)
    else:
        choice = choose(machine_here(), Asked(OPENVINO))
        folder = folder_of(cache_directory(), weights, choice.kind)
        make(weights, folder, choice.kind)
        service = openvino_service(settings, folder, choice, "key", _nothing)
    began = time.perf_counter()
    environment = {**os.environ, KEY_VARIABLE: "key"}
    with subprocess.Popen(
        service.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline().partition(" ")[2])
        took = time.perf_counter() - began
        context = told["context_tokens"]
        yield (
            Offer(1, "m", "local", told["address"], told["model"], context, context),
            psutil.Process(process.pid),
            took,
        )
        process.terminate()


def _params(text: str) -> dict[str, Raw]:
    asked = {"messages": [{"role": "user", "content": text}], "temperature": 0, "ignore_eos": True}
    return {name: Raw(msgspec.json.encode(value)) for name, value in asked.items()}


async def _ask(upstream: LlamaCpp, offer: Offer, text: str, tokens: int) -> tuple[int, float, float]:
    """Prompt tokens, seconds to the first token, seconds in all."""
    began, first, prompt = time.perf_counter(), 0.0, 0
    async for event in upstream.stream(offer, _params(text), tokens, b""):
        first = first or time.perf_counter() - began
        prompt = event.usage.prompt
    return prompt, first, time.perf_counter() - began


async def measured(offer: Offer, process: psutil.Process, turn: int) -> dict[str, float]:
    def cpu_ms() -> float:
        times = process.cpu_times()
        return float(1000 * (times.user + times.system))

    pool = Pool()
    upstream, found = LlamaCpp("local", pool, "key"), dict[str, float]()
    await _ask(upstream, offer, "Hello.", 8)
    used = cpu_ms()
    _, first, whole = await _ask(upstream, offer, f"Tell a long story about the sea and {turn} ships.", _ALONE_TOKENS)
    found["decode"] = (_ALONE_TOKENS - 1) / (whole - first)
    found["decode_cpu"] = (cpu_ms() - used) / _ALONE_TOKENS
    long = f"List {turn}: " + "".join(f"item {n} costs {n * n + turn} coins, " for n in range(36))
    prompt, cold, _ = await _ask(upstream, offer, long, 1)
    found |= {"prefill": prompt / cold, "cold": 1000 * cold, "warm": 1000 * (await _ask(upstream, offer, long, 1))[1]}
    used, began = cpu_ms(), time.perf_counter()
    await asyncio.gather(*(_ask(upstream, offer, f"What is {n} plus {n + turn}?", _MANY_TOKENS) for n in range(_MANY)))
    tokens = _MANY * _MANY_TOKENS
    found |= {"many": tokens / (time.perf_counter() - began), "many_cpu": (cpu_ms() - used) / tokens}
    found["rss"] = process.memory_info().rss / 2**20
    await pool.close()
    return found


def main() -> None:
    weights = fetch()
    found: dict[str, list[dict[str, float]]] = {XLLAMACPP: [], OPENVINO: []}
    with tempfile.TemporaryDirectory() as name:
        settings = load_settings(data=Path(name))
        for turn in range(RUNS_MIN):
            for engine, rows in found.items():
                with running(engine, settings, weights) as (offer, process, took):
                    rows.append(asyncio.run(measured(offer, process, turn)) | {"load": took})
    report = Report("engine", "see the row")
    for figure, label in _FIGURES.items():
        for engine, rows in found.items():
            first = f"{XLLAMACPP}: {label}"
            report.add(f"{engine}: {label}", [row[figure] for row in rows], to=first if engine == OPENVINO else "")
    choice = choose(machine_here(), Asked(OPENVINO))
    report.finish(
        openvino={"why": choice.why, "weights": choice.kind, "threads": choice.threads}, threads=settings.threads
    )


if __name__ == "__main__":
    main()
