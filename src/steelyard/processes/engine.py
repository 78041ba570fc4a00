"""The engine: llama.cpp behind its own HTTP listener on 127.0.0.1, one process per local model.

Owns the engine's settings, its chat template, its energy clock and its end: it leaves on SIGTERM and when its parent
is gone. Only the holder of the key in the environment may ask it, so no local user gets past the meter. Knows no
customer, price or journal.
"""

import argparse
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from steelyard.engines.drafts import DRAFT_RUN, DRAFT_TOKENS
from steelyard.engines.leash import (
    CHATML,
    HOST,
    KEY_VARIABLE,
    LOCAL_UPSTREAM,
    LOOKUP,
    MTP,
    OFF,
    UNUSABLE,
    die_with_parent,
    key_taken,
    parent_holds_pipe,
    refuse_taken,
)
from steelyard.kernel import limits
from steelyard.kernel.engines import EngineKind
from steelyard.kernel.errors import StartError
from steelyard.upstream.gguf import GgufFile, read_gguf

if TYPE_CHECKING:
    import xllamacpp

_TICK_S = 0.02
_TICKS_APART = 5  # between two readings of the CPU time while no worker has anything here: one takes 0.12 ms
_BUSY_CPU_NS = (
    2_000_000  # CPU time per tick below which nothing is being decoded (an idle process was seen at < 0.3 ms)
)
_BATCH_TOKENS = 128  # prompt tokens per step: how long a new prompt may hold up running answers; 512 was no faster
_PROMPT_CACHE_MIB = 256  # prefixes that no slot holds any more


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; the exit code."""
    options = _options(arguments)
    parent = os.getppid()
    die_with_parent(parent)
    try:
        key = key_taken(options.api_key_env)
        file = read_gguf(options.model)
        context = min(options.context, file.context_tokens or options.context)
        refuse_taken(options.port)
        with _Stop() as stop:
            server = _serve(options, file, key, context)
            ticker = threading.Thread(
                target=_tick, args=(server, options, file.model_name, stop), name="energy", daemon=True
            )
            ticker.start()
            address = server.listening_address.removeprefix("http://")
            told = {"address": address, "model": file.model_name, "context_tokens": context, "slots": options.slots}
            print("ready", json.dumps(told), flush=True)
            stop.wait()
            ticker.join(_TICK_S * 10)
    except StartError as error:
        print(error, file=sys.stderr, flush=True)
        return UNUSABLE
    sys.stdout.flush()
    os._exit(0)  # the engine's threads are not joined: a running answer must not hold up the end


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="steelyard-engine", description="Serve one GGUF model on 127.0.0.1.")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument("--upstream", default=LOCAL_UPSTREAM, help="the name of the energy clock")
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--slots", type=int, default=4, help="sequences decoded at once")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context per sequence")
    parser.add_argument("--embedding", action="store_true", help="a model that makes vectors, not text")
    parser.add_argument("--speculate", choices=(OFF, LOOKUP, MTP), default=OFF, help="how tokens are drafted")
    parser.add_argument("--api-key-env", default=KEY_VARIABLE, help="environment variable that holds the key")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace, file: GgufFile, key: str, context: int) -> "xllamacpp.Server":
    """Load the model and listen. Raises StartError for a file the engine refuses."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = 0
    params.model.path = str(file.path)
    params.model_alias = {file.model_name}
    params.hostnames = [HOST]
    params.port = options.port
    params.api_keys = [key]
    params.cors_origins = ""
    params.ui = False
    params.endpoint_props = False
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.n_threads_http = limits.ENGINE_HTTP_THREADS
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.n_parallel = options.slots
    params.n_ctx = context * options.slots
    params.kv_unified = False  # every slot has the promised context whatever the others do
    params.ctx_shift = False  # an answer that outgrows the context ends with "length"; nothing is forgotten in silence
    params.cont_batching = True
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.cache_prompt = True
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.use_jinja = True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE  # no token goes unseen
    params.enable_reasoning = 0
    if options.embedding:
        params.embedding = True
        params.n_batch = params.n_ubatch = context  # an input is read in one step, or not at all
        params.cache_ram_mib = 0
    if file.model_name.startswith("smollm2"):
        params.chat_template = CHATML
    _speculate(params, options.speculate, file)
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise StartError(
            f"The engine cannot load the model file {file.path}: it is damaged, of an architecture the engine does not "
            "know, or too large for this machine's memory."
        ) from None


def _speculate(params: "xllamacpp.CommonParams", how: str, file: GgufFile) -> None:
    """Raises StartError for a model without the layers it takes."""
    import xllamacpp

    kinds = xllamacpp.common_speculative_type
    if how == LOOKUP:
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        params.speculative.ngram_simple.size_n = DRAFT_RUN
        params.speculative.ngram_simple.size_m = DRAFT_TOKENS
    elif how == MTP:
        if not file.mtp_layers:
            raise StartError(f"{file.model_name} has no MTP layers: leave out --speculate, or take 'lookup'.")
        params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        params.load_mtp = True


def _tick(server: "xllamacpp.Server", options: argparse.Namespace, model: str, stop: "_Stop") -> None:
    """Advance the energy clock. The engine is asked for its load only when CPU time was spent: asking costs 0.15 ms. It
    is looked less often while neither a worker nor the last look says that anything runs."""
    from steelyard.kernel.directory import DataDir
    from steelyard.metering.energy import CpuClock, clock_path
    from steelyard.metering.engine_load import load_from_metrics
    from steelyard.metering.power import rapl_here
    from steelyard.processes.engine_watch import Watch

    clock = CpuClock(clock_path(DataDir(options.data).energy, options.upstream), power=rapl_here())
    watch = Watch(options.data, options.upstream, EngineKind.XLLAMACPP, model)
    was_busy, skipped = False, 0
    while not stop.told.is_set():
        time.sleep(_TICK_S)  # a fifth of what waiting for the event costs
        if not was_busy and skipped < _TICKS_APART - 1 and not clock.running():
            skipped += 1
            continue
        skipped = 0
        used_ns = clock.read()
        busy = used_ns > _BUSY_CPU_NS
        load = load_from_metrics(EngineKind.XLLAMACPP, server.handle_metrics()) if busy or was_busy else None
        clock.share(used_ns, load.running if load is not None and busy else 0)
        watch.tick(load)
        was_busy = busy


class _Stop:
    """Waits for SIGTERM, SIGINT or the end of standard input (a pipe held open by the parent)."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self._wake, self._woken = socket.socketpair()

    def __enter__(self) -> "_Stop":
        for each in (self._wake, self._woken):
            each.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)  # the wake-up byte is what counts
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._woken.close()

    def wait(self) -> None:
        watched: list[int] = [self._wake.fileno()]
        if parent_holds_pipe():
            watched.append(0)
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._wake.fileno() in ready or os.read(0, 4096) == b"":
                break
        self.told.set()


def _ignore(number: int, frame: FrameType | None) -> None:
    return None


if __name__ == "__main__":
    sys.exit(main())
