"""Keeps the platform's processes alive: starts them, checks them, restarts what dies or hangs, stops them in order.

Every end of a child is told with its reason. Knows no command line and no money: what to run, and how to tell whether
it is well, come in as values. Nothing it starts outlives it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import StartError, SteelyardError
from steelyard.processes.child import Child, Service

Check = Callable[[Mapping[str, int]], Awaitable[frozenset[str]]]
"""Gets name → pid of the children it looks after and returns the names of those that did not answer."""


class Supervisor:
    """The children of one `steelyard up`. `tell` gets one line for the person at the terminal.

    `delays_ms`: how long a child waits for its next start, the first time, the second …; the last one repeats. Nothing
    means the platform's own (limits.RESTART_DELAYS_MS).
    """

    def __init__(
        self,
        logs: Path,
        clock: Clock,
        tell: Callable[[str], None],
        delays_ms: Sequence[int] = (),
    ) -> None:
        self._logs = logs
        self._clock = clock
        self._tell = tell
        self._delays_ms = delays_ms
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._checks: list[asyncio.Task[None]] = []
        self._hung: set[str] = set()
        self._stopping = False

    @property
    def pids(self) -> dict[str, int]:
        """The running children by name."""
        return {name: child.pid for name, child in self._children.items()}

    def kill(self, name: str) -> bool:
        """SIGKILL a running child, as a crash would; it is started again. False when it is not running just now."""
        child = self._children.get(name)
        if child is None or child.killed:
            return False
        child.end()
        return True

    async def start(self, service: Service) -> None:
        """Start a service and watch it from now on. Raises StartError when it does not become ready."""
        started_ns = self._clock.monotonic_ns()
        child = await self._launch(service)
        self._watchers[service.name] = asyncio.ensure_future(self._watch(service, child, started_ns))

    async def _launch(self, service: Service) -> Child:
        child = await Child.start(service, self._logs)
        if self._stopping:
            await child.kill()
            raise StartError(f"{service.name} was stopped before it was ready.")
        self._children[service.name] = child
        return child

    async def _watch(self, service: Service, child: Child, started_ns: int) -> None:
        """Restart the service whenever it ends, later and later as long as it does not hold."""
        attempt = 0
        while True:
            await self._ended(child)
            del self._children[service.name]
            child.close()
            if self._clock.monotonic_ns() - started_ns > limits.RESTART_FORGIVEN_S * NS_PER_S:
                attempt = 0
            reason = self._reason(service.name, child)
            next_child = None
            while next_child is None:
                delays_ms = self._delays_ms or limits.RESTART_DELAYS_MS
                delay_ms = delays_ms[min(attempt, len(delays_ms) - 1)]
                attempt += 1
                self._tell(f"{service.name} {reason}; starting it again in {delay_ms / 1000:g} s.")
                await asyncio.sleep(delay_ms / 1000)
                started_ns = self._clock.monotonic_ns()
                try:
                    next_child = await self._launch(service)
                except SteelyardError as error:
                    reason = f"could not be started ({error})"
            child = next_child
            self._tell(f"{service.name} is running again.")

    async def _ended(self, child: Child) -> None:
        """Return when it is gone; until then its log is kept small."""
        end = asyncio.ensure_future(child.ended())
        try:
            while not (await asyncio.wait([end], timeout=limits.LOG_LOOK_S))[0]:
                child.keep_log_small()
        finally:
            end.cancel()

    def _reason(self, name: str, child: Child) -> str:
        """What is said of a child that ended, with its last log line when it failed by itself."""
        if name in self._hung:
            self._hung.discard(name)
            return f"did not answer {limits.HEALTH_FAILURES_MAX} health checks and was killed"
        ended = f"ended ({child.reason()})"
        words = child.last_words()
        return f"{ended}: {words[:300]}" if words and not child.killed else ended

    def check(self, prefix: str, check: Check) -> None:
        """Look every few seconds after the children whose name starts so; one that does not answer is killed."""
        self._checks.append(asyncio.ensure_future(self._check(prefix, check)))

    async def _check(self, prefix: str, check: Check) -> None:
        failures: dict[int, int] = {}
        while True:
            await asyncio.sleep(limits.HEALTH_INTERVAL_S)
            pids = {name: pid for name, pid in self.pids.items() if name.startswith(prefix)}
            silent = await check(pids) if pids else frozenset()
            failures = {pids[name]: failures.get(pids[name], 0) + 1 for name in silent}
            for name in silent:
                child = self._children.get(name)
                if child is None or child.pid != pids[name] or failures[child.pid] < limits.HEALTH_FAILURES_MAX:
                    continue
                self._hung.add(name)
                child.end()

    async def retire(self, name: str, patience_s: float) -> None:
        """Stop one service for good, wherever it is on its way; one that is not known does not mind."""
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        child = self._children.pop(name, None)
        if child is not None and not await child.stop(patience_s):
            self._tell(f"{name} did not stop within {patience_s:g} s and was killed.")

    async def stop(self, order: Sequence[tuple[str, float]]) -> None:
        """Stop gracefully, group after group: (prefix of the names, seconds of patience)."""
        self._stopping = True
        await self._stop_watching()
        for prefix, patience_s in order:
            group = [name for name in self._children if name.startswith(prefix)]
            went = await asyncio.gather(*(self._children[name].stop(patience_s) for name in group))
            for name, by_itself in zip(group, went, strict=True):
                del self._children[name]
                if not by_itself:
                    self._tell(f"{name} did not stop within {patience_s:g} s and was killed.")

    async def force(self, last: str) -> None:
        """Stop at once: SIGKILL for everything, a moment for the one called `last`."""
        self._stopping = True
        await self._stop_watching()
        children = dict(self._children)
        self._children.clear()
        gentle = children.pop(last, None)
        await asyncio.gather(*(child.kill() for child in children.values()))
        if gentle is not None:
            await gentle.stop(limits.FORCED_STOP_S)

    async def _stop_watching(self) -> None:
        tasks = [*self._watchers.values(), *self._checks]
        self._watchers.clear()
        self._checks.clear()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
