"""The engine: OpenVINO GenAI behind our own listener on 127.0.0.1, one process per local model.

Owns the engine's settings, its energy clock and its end, as `processes/engine.py` does for llama.cpp; both speak the
same dialect. Only the holder of the key in the environment may ask it. Knows no customer, price or journal.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path

import uvloop

from steelyard.engines.converted import Manifest, kept
from steelyard.engines.decoder import BLOCK_TOKENS, Decoder, Shape
from steelyard.engines.leash import (
    HOST,
    KEY_VARIABLE,
    LOCAL_UPSTREAM,
    LOOKUP,
    OFF,
    UNUSABLE,
    die_with_parent,
    key_taken,
    parent_holds_pipe,
    refuse_taken,
)
from steelyard.engines.listener import Connection, Desk, Told
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKind
from steelyard.kernel.errors import StartError
from steelyard.metering.energy import CpuClock, clock_path
from steelyard.metering.power import rapl_here
from steelyard.processes.engine_watch import Watch

_TICK_NS = 20 * NS_PER_MS  # of the energy clock while steps are shorter
_BROKEN = 1


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; the exit code."""
    options = _options(arguments)
    die_with_parent(os.getppid())
    try:
        key = key_taken(options.api_key_env)
        manifest = kept(options.folder)
        if manifest is None:
            raise StartError(f"The weights in {options.folder} are missing or cut short. Make them again.")
        refuse_taken(options.port)
        decoder = _decoder(options, manifest)
        gc.freeze()  # what is loaded lives as long as the process: no collection amid an answer looks at it
        code = uvloop.run(_run(options, decoder, manifest, key))
    except StartError as error:
        print(error, file=sys.stderr, flush=True)
        return UNUSABLE
    sys.stdout.flush()
    os._exit(code)  # the engine's threads are not joined: a running answer must not hold up the end


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="steelyard-engine", description="Serve one model with OpenVINO on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, required=True, help="weights made by steelyard.engines.converted")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument("--upstream", default=LOCAL_UPSTREAM, help="the name of the energy clock")
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--slots", type=int, default=64, help="sequences decoded at once")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context per sequence")
    parser.add_argument("--batch-tokens", type=int, default=256, help="tokens of prompts read in one step")
    parser.add_argument("--cache-tokens", type=int, default=32_768, help="tokens the KV cache holds in all")
    parser.add_argument("--precision", default="", help="bf16, f32, or as the weights are")
    parser.add_argument("--cache-precision", default="", help="of the KV cache: bf16, f32, or 8 bits")
    parser.add_argument("--speculate", choices=(OFF, LOOKUP), default=OFF, help="draft tokens from earlier ones")
    parser.add_argument("--api-key-env", default=KEY_VARIABLE, help="environment variable that holds the key")
    return parser.parse_args(arguments)


def _decoder(options: argparse.Namespace, manifest: Manifest) -> Decoder:
    context = min(options.context, manifest.context_tokens)
    blocks = max(options.cache_tokens, context) // BLOCK_TOKENS + 1
    shape = Shape(
        options.threads,
        options.slots,
        context,
        options.batch_tokens,
        blocks,
        options.precision,
        options.cache_precision,
        options.speculate == LOOKUP,
    )
    try:
        return Decoder(options.folder, manifest, shape)
    except (ImportError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise StartError(f"OpenVINO cannot load {options.folder}: {line}") from None


async def _run(options: argparse.Namespace, decoder: Decoder, manifest: Manifest, key: str) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    def broken(reason: str) -> None:
        print(f"OpenVINO failed: {reason}", file=sys.stderr, flush=True)
        end(_BROKEN)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    if parent_holds_pipe():
        loop.add_reader(0, lambda: end(0) if os.read(0, 4096) == b"" else None)
    context = min(options.context, manifest.context_tokens)
    effort = _Effort(options, manifest.model)
    told = Told(manifest.model, context, options.slots, options.cache_tokens)
    desk = Desk(decoder, told, key, broken, effort)
    server = await loop.create_server(lambda: Connection(desk), HOST, options.port, backlog=limits.ENGINE_SEQUENCES_MAX)
    port = server.sockets[0].getsockname()[1]
    teller = asyncio.ensure_future(_tell(desk, effort.watch))
    greeting = {"address": f"{HOST}:{port}", "model": manifest.model, "context_tokens": context, "slots": options.slots}
    print("ready", json.dumps(greeting), flush=True)
    code = await stop
    teller.cancel()
    await asyncio.sleep(0)  # what was said last leaves
    return code


class _Effort:
    """The energy clock and the busy time: CPU time is shared among the sequences of the steps it was spent on, and it
    stands in the clock before one of them is told its end, or its rest. What is used while nothing runs is nobody's.
    """

    def __init__(self, options: argparse.Namespace, model: str) -> None:
        self.watch = Watch(options.data, options.upstream, EngineKind.OPENVINO, model)
        clock = clock_path(DataDir(options.data).energy, options.upstream)
        self._clock = CpuClock(clock, power=rapl_here())
        self._time = SystemClock()
        self._ticked_ns = 0
        self._sequences = 0  # at most, since the last tick

    def rested(self) -> None:
        """See `Effort`."""
        self._clock.rested()
        self.watch.passed(busy=False)

    def ran(self, sequences: int, *, ended: bool) -> None:
        """See `Effort`."""
        self._sequences = max(self._sequences, sequences)
        now_ns = self._time.monotonic_ns()
        if ended or now_ns - self._ticked_ns >= _TICK_NS:
            self._tick(now_ns)

    def rests(self) -> None:
        """See `Effort`."""
        if self._sequences:
            self._tick(self._time.monotonic_ns())

    def _tick(self, now_ns: int) -> None:
        self._clock.tick(self._sequences)
        self.watch.passed(busy=True)
        self._ticked_ns, self._sequences = now_ns, 0


async def _tell(desk: Desk, watch: Watch) -> None:
    while True:
        watch.tell(desk.load())
        await asyncio.sleep(limits.ENGINE_SEEN_MS / 1000)


if __name__ == "__main__":
    sys.exit(main())
