"""Engines that are run beside the built-in one, as records: what is wanted of each, and what was last seen of it.

A vLLM or SGLang server on GPUs, started by us or adopted while somebody else runs it. Knows no process and no file.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.frozen import Record


class EngineKind(StrEnum):
    """Whose server it is: how it is started and what its metrics are called."""

    VLLM = "vllm"
    SGLANG = "sglang"
    OPENVINO = "openvino"  # this and the next are the local engine of `steelyard up`, which nobody adds
    XLLAMACPP = "xllamacpp"


ADDED = (EngineKind.VLLM, EngineKind.SGLANG)
"""Those that are added beside the local one."""


class Wanted(StrEnum):
    """What is to be done with an engine."""

    RUN = "run"
    DRAINED = "drained"  # nothing new is sent to it; when its running answers have ended, it is stopped
    REMOVED = "removed"  # drained, then forgotten


class EngineSpec(Record, frozen=True):
    """What is wanted of an engine. Its name is that of its upstream: of its cost tariff, its key and its clock."""

    name: str
    kind: EngineKind
    model: str  # what customers ask for
    weights: str = ""  # what the server loads: a path or the name of a repository; empty: adopted, it has them
    address: str = ""  # of an adopted server; empty: it is started here
    gpus: tuple[str, ...] = ()  # indexes or UUIDs; none: whatever the server takes, counted as one
    context_tokens: int = 0  # 0: as the server says
    speculative: str = ""  # vLLM's --speculative-config, a JSON object
    extra: tuple[str, ...] = ()  # arguments passed on
    command: tuple[str, ...] = ()  # started instead of the kind's own program, with the same arguments
    token: str = ""  # its key, sealed (upstream.sealed); empty: it has none
    wanted: Wanted = Wanted.RUN
    reason: str = ""  # why it was last changed
    generation: int = 0  # another one means: start it anew
    start_s: int = 0  # it may take so long to load; 0: limits.ENGINE_START_S

    @property
    def adopted(self) -> bool:
        return bool(self.address)

    @property
    def gpu_count(self) -> int:
        return max(1, len(self.gpus))


class EngineLoad(Record, frozen=True):
    """What a server's own metrics say. Tokens and drafts are counted since it started; None: it does not tell."""

    running: int = 0
    waiting: int = 0
    kv_permille: int | None = None  # of its key-value cache in use
    prefill_tokens: int | None = None
    decode_tokens: int | None = None
    cache_asked_tokens: int | None = None  # prompt tokens that were looked for in its prefix cache
    cache_hit_tokens: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    waiting_batch: int | None = None  # of those who wait


class Energy(StrEnum):
    """Where joules come from. A label, never left off."""

    NVML = "nvml"  # measured by the GPUs' own counters
    RAPL = "rapl"  # measured by the CPU package's counters
    MODELLED = "modelled"  # busy time × the watts of the cost tariff


class EngineState(StrEnum):
    """Where an engine is on its way."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"  # it is tried again, later and later
    SILENT = "silent"  # it ran, and nothing has been heard of it for a while: never written down


class EngineSeen(Record, frozen=True):
    """What its keeper last saw, or the platform last did."""

    state: EngineState
    seen_ns: int
    reason: str = ""
    address: str = ""
    command: str = ""  # as it was started, secrets hidden
    load: EngineLoad | None = None
    busy_ns: int = 0  # since the keeper started: GPU time with at least one running sequence
    up_ns: int = 0
    energy: Energy = Energy.MODELLED
    busy_uj: int = 0  # measured while something ran; 0 when nothing measures
    idle_uj: int = 0  # measured while nothing ran: nobody's
    kind: EngineKind | None = None  # of the local engine, of which nobody has written down what is wanted
    model: str = ""  # of it


class LineSeen(Record, frozen=True):
    """Who waits in a worker's line before an engine that keeps none itself."""

    seen_ns: int
    waiting: int
    waiting_batch: int  # of them


class EngineStart(Record, frozen=True):
    """How an engine came to run, as the running `steelyard up` wrote it down."""

    first_ns: int  # since this start of the platform
    last_ns: int
    starts: int
    why: str = ""  # this engine and no other; empty: it was added
    speculate: str = ""  # how the local engine drafts tokens; empty: an added one's own affair
    address: str = ""


class EngineKnown(NamedTuple):
    """All that this machine knows of an engine."""

    spec: EngineSpec
    seen: EngineSeen | None
    start: EngineStart | None


def with_lines(seen: EngineSeen, lines: Sequence[LineSeen]) -> EngineSeen:
    """What was seen of an engine, with those who wait before it. A line of which nothing was heard about then has gone
    with its worker."""
    near_ns = limits.ENGINE_SILENT_S * NS_PER_S
    lines = [one for one in lines if abs(one.seen_ns - seen.seen_ns) <= near_ns]
    if seen.load is None or not lines:
        return seen
    waiting = seen.load.waiting + sum(one.waiting for one in lines)
    batch = (seen.load.waiting_batch or 0) + sum(one.waiting_batch for one in lines)
    return replace(seen, load=replace(seen.load, waiting=waiting, waiting_batch=batch))


def state_at(spec: EngineSpec, seen: EngineSeen | None, now_ns: int) -> EngineState:
    """Where it is now, by what was last seen of it and is wanted since."""
    if seen is None:
        return EngineState.STARTING
    if seen.state is not EngineState.RUNNING:
        return seen.state
    if now_ns - seen.seen_ns > limits.ENGINE_SILENT_S * NS_PER_S:
        return EngineState.SILENT
    return EngineState.RUNNING if spec.wanted is Wanted.RUN else EngineState.DRAINING
