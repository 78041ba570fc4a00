"""`make bench-first_token`: how soon an answer begins whose 640-token system prompt is in the cache.

The same questions go to the bare pipeline in this process and to `steelyard up` over HTTP, in turns, so that their
difference is what the platform adds: gateway, hold, meter, hop, line, books. Then arrivals at random. OpenVINO only.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence

import msgspec

from bench.lab.replay import OUTPUT_TOKENS, conversation
from bench.ladder import Up, up
from bench.report import Report
from steelyard.engines.asked import read_ask
from steelyard.engines.choice import OPENVINO, Asked, choose, machine_here
from steelyard.engines.converted import folder_of, kept, make
from steelyard.engines.decoder import BLOCK_TOKENS, Decoder, Shape
from steelyard.upstream.weights import cache_directory, fetch

_ROUNDS, _PER_ROUND = 6, 15
_ARRIVALS, _PER_SECOND = 40, (2, 10)
_CONTEXT = 4096


def bare() -> tuple[Decoder, str]:
    """The pipeline as the platform would build it here, and why so."""
    weights, choice = fetch(), choose(machine_here(), Asked(OPENVINO))
    folder = folder_of(cache_directory(), weights, choice.kind)
    make(weights, folder, choice.kind)
    manifest = kept(folder)
    if manifest is None:
        raise SystemExit(f"The weights in {folder} could not be made.")
    blocks = choice.cache_tokens // BLOCK_TOKENS + 1
    shape = Shape(choice.threads, choice.slots, _CONTEXT, choice.batch_tokens, blocks, choice.precision)
    return Decoder(folder, manifest, shape), choice.why


def _body(number: int, max_tokens: int, model: str = "") -> bytes:
    asked = {"messages": conversation(number), "max_tokens": max_tokens, "temperature": 0, "stream": True}
    return msgspec.json.encode({**asked, "model": model} if model else asked)


def first_bare_ms(decoder: Decoder, number: int) -> float:
    """From the request's bytes to its first token, and nothing else of a server."""
    began = time.perf_counter()
    ask = read_ask(_body(number, 1), chat=True)
    sequence = decoder.add(ask, decoder.prompt_of(ask))
    while sequence.finish is None:
        list(decoder.step())
    return 1000 * (time.perf_counter() - began)


async def first_served_ms(running: Up, number: int, max_tokens: int = 1) -> float:
    """From before the connection is opened to the first event with a text. The answer is read to its end."""
    body, began, first = _body(number, max_tokens, running.model), time.perf_counter(), 0.0
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {running.key}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    async for line in reader:
        if not first and line.startswith(b"data: {"):
            choices = json.loads(line[6:])["choices"]
            first = time.perf_counter() if choices and choices[0]["delta"].get("content") else 0.0
    writer.close()
    if not first:
        raise SystemExit("An answer had no text.")
    return 1000 * (first - began)


async def arriving_ms(running: Up, per_second: int, since: int) -> list[float]:
    """Poisson arrivals of answers of 32 tokens, to questions from this one on."""
    pick, tasks = random.Random(per_second), []
    for number in range(since, since + _ARRIVALS):
        tasks.append(asyncio.create_task(first_served_ms(running, number, OUTPUT_TOKENS)))
        await asyncio.sleep(pick.expovariate(per_second))
    return await asyncio.gather(*tasks)


def told(label: str, found: Sequence[float]) -> Iterator[tuple[str, float]]:
    """p50 and p99: of 90, the second largest; of 40, the largest."""
    yield f"{label}, p50", statistics.median(found)
    yield f"{label}, p99", sorted(found)[min(len(found) - 1, round(0.99 * len(found)) - 1)]


def main() -> None:
    decoder, why = bare()
    alone: list[float] = []
    served: list[float] = []
    with up() as running:
        first_bare_ms(decoder, 0)
        asyncio.run(first_served_ms(running, 0))
        for turn in range(_ROUNDS):
            numbers = range(turn * _PER_ROUND + 1, (turn + 1) * _PER_ROUND + 1)
            alone += [first_bare_ms(decoder, number) for number in numbers]
            served += [asyncio.run(first_served_ms(running, number)) for number in numbers]
        since = _ROUNDS * _PER_ROUND + 1  # what was asked before would be in the cache, question and all
        loaded = {
            rate: asyncio.run(arriving_ms(running, rate, since + turn * _ARRIVALS))
            for turn, rate in enumerate(_PER_SECOND)
        }
        engine = running.engine
    report = Report("first_token", "ms")
    for label, value in told("the bare pipeline, idle", alone):
        report.add(label, value)
    for label, value in told("the platform, idle", served):
        report.add(label, value, to=label.replace("the platform", "the bare pipeline"))
    for rate, found in loaded.items():
        for label, value in told(f"the platform, {rate} arrivals/s of {OUTPUT_TOKENS} tokens", found):
            report.add(label, value)
    report.finish(engine=engine, why=why)


if __name__ == "__main__":
    main()
