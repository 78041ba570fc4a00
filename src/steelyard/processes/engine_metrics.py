"""What Prometheus is told of the engines of this machine, from what their keepers, or they themselves, last saw.

For watching only. Counters are the server's own and start over when it does. Knows no server.
"""

from collections.abc import Iterator

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineSeen, EngineSpec, EngineState, state_at
from steelyard.kernel.errors import StartError
from steelyard.processes import engine_files

_OF_LOAD = (
    ("requests_running", "running", "gauge", "Requests in execution."),
    ("requests_waiting", "waiting", "gauge", "Requests in its queue, or in a worker's before it."),
    ("requests_waiting_batch", "waiting_batch", "gauge", "Of these in the batch lane."),
    ("kv_permille", "kv_permille", "gauge", "Of its key-value cache in use."),
    ("prefill_tokens_total", "prefill_tokens", "counter", "Prompt tokens."),
    ("decode_tokens_total", "decode_tokens", "counter", "Tokens written."),
    ("cache_asked_tokens_total", "cache_asked_tokens", "counter", "Prompt tokens looked for in its prefix cache."),
    ("cache_hit_tokens_total", "cache_hit_tokens", "counter", "Of these found."),
    ("drafted_tokens_total", "drafted_tokens", "counter", "Drafts proposed."),
    ("accepted_tokens_total", "accepted_tokens", "counter", "Drafts accepted; never billed to customers."),
)
_OWN = (
    ("up", "gauge", "1 while it serves."),
    ("busy_seconds_total", "counter", "Time with at least one request, since its keeper started."),
    ("busy_joules_total", "counter", "Measured while requests ran; 0 where nothing measures."),
    ("idle_joules_total", "counter", "Measured while none ran: nobody's."),
)
_SERVES = frozenset({EngineState.RUNNING, EngineState.DRAINING})  # one that has fallen silent does not


def engine_text(data: DataDir, now_ns: int) -> str:
    """The exposition text; empty when no engine ever ran here. What a server does not tell has no line."""
    try:
        known = [(one.spec, one.seen) for one in engine_files.known(data)]
    except StartError:  # a broken file: `steelyard engine list` says which
        return ""
    return "\n".join([*_lines(known, now_ns), ""]) if known else ""


def _lines(known: list[tuple[EngineSpec, EngineSeen | None]], now_ns: int) -> Iterator[str]:
    for name, field, kind, said in _OF_LOAD:
        yield from _head(name, kind, said)
        for spec, seen in known:
            value = getattr(seen.load, field) if seen is not None and seen.load is not None else None
            if value is not None:
                yield _sample(name, spec, value)
    for name, kind, said in _OWN:
        yield from _head(name, kind, said)
        for spec, seen in known:
            yield _sample(name, spec, _own(name, spec, seen, now_ns))


def _own(name: str, spec: EngineSpec, seen: EngineSeen | None, now_ns: int) -> float | int:
    if seen is None:
        return 0
    match name:
        case "up":
            return int(state_at(spec, seen, now_ns) in _SERVES)
        case "busy_seconds_total":
            return seen.busy_ns / NS_PER_S
        case "busy_joules_total":
            return seen.busy_uj / 1_000_000
        case _:
            return seen.idle_uj / 1_000_000


def _head(name: str, kind: str, said: str) -> tuple[str, str]:
    return f"# HELP steelyard_engine_{name} {said}", f"# TYPE steelyard_engine_{name} {kind}"


def _sample(name: str, spec: EngineSpec, value: float) -> str:
    return f'steelyard_engine_{name}{{engine="{spec.name}",kind="{spec.kind}",model="{_escaped(spec.model)}"}} {value}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
