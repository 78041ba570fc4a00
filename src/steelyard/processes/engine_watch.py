"""What an engine of ours tells people: its load, its drafts and its busy time, in the file where keepers put theirs.

For watching only: nothing here is billed. Sums start over when the engine does. Knows no engine.
"""

import contextlib
from pathlib import Path

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S, Clock, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKind, EngineLoad, EngineSeen, EngineState
from steelyard.kernel.errors import StartError
from steelyard.processes import engine_files


class Watch:
    """`upstream` is the name the engine is known by, `model` what it serves."""

    def __init__(self, data: Path, upstream: str, kind: EngineKind, model: str, clock: Clock | None = None) -> None:
        self._data = DataDir(data)
        self._upstream = upstream
        self._clock = clock or SystemClock()
        self._seen = EngineSeen(EngineState.RUNNING, 0, kind=kind, model=model)
        self._began_ns = self._last_ns = self._clock.monotonic_ns()
        self._told: EngineLoad | None = None
        self._told_ns = 0
        self._busy_ns = 0
        self._load = EngineLoad()

    def tick(self, load: EngineLoad | None) -> None:
        """The time since the last tick was busy when something runs at its end. None: nothing has changed."""
        self._load = load or self._load
        self.passed(busy=self._load.running > 0)
        self.tell(self._load)

    def passed(self, *, busy: bool) -> None:
        """Something ran all the time since the last call, or nothing did."""
        now_ns = self._clock.monotonic_ns()
        elapsed_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if busy:
            self._busy_ns += elapsed_ns

    def tell(self, load: EngineLoad) -> None:
        """Write it down if that is due: often while something runs, or has changed; seldom otherwise."""
        now_ns = self._clock.monotonic_ns()
        moves = load.running or load != self._told
        pause_ns = limits.ENGINE_SEEN_MS * NS_PER_MS if moves else limits.ENGINE_SEEN_REST_S * NS_PER_S
        if self._told is None or now_ns - self._told_ns >= pause_ns:
            self._load = self._told = load
            self._told_ns = now_ns
            self._tell(now_ns - self._began_ns)

    def _tell(self, up_ns: int) -> None:
        told = {"seen_ns": self._clock.now_ns(), "busy_ns": self._busy_ns, "up_ns": up_ns}
        seen = msgspec.structs.replace(self._seen, load=self._load, **told)
        with contextlib.suppress(StartError):  # a full disk ends no answer
            engine_files.put_seen(self._data, self._upstream, seen)
