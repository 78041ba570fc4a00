"""The GPU engines of one `steelyard up`: what runs is made to be what is wanted, and the catalog is told of both.

Looks at the files of processes.engine_files every second. A task per engine starts it, offers its model when its keeper
says `ready`, and drains it: withdrawn first, stopped when nothing runs any more. Knows no server; keepers do.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.directory import DATABASE_VARIABLE, DataDir
from steelyard.kernel.engines import EngineSeen, EngineSpec, EngineState, Wanted
from steelyard.kernel.errors import CallerError, StartError, SteelyardError
from steelyard.processes import engine_files
from steelyard.processes.child import Service
from steelyard.processes.supervisor import Supervisor

KEEPER = "keeper-"
_ANSWER_TOKENS_DEFAULT = 4096  # of an answer for which the customer names no bound; thinking is a part of it
_IDLE_LOOKS = 2  # so often in a row nothing must run before a drained engine is stopped
Command = Callable[[str, dict[str, Any]], Any]


class EngineRoom:
    """`command` is the books', `tell` gets one line for the person at the terminal."""

    def __init__(
        self, data: DataDir, clock: Clock, supervisor: Supervisor, command: Command, tell: Callable[[str], None]
    ) -> None:
        self._data = data
        self._clock = clock
        self._supervisor = supervisor
        self._command = command
        self._tell = tell
        self._running: dict[str, tuple[EngineSpec, asyncio.Task[None]]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled; what was started is left to the supervisor."""
        for name in await self._specs():
            await self._withdraw(name)  # what an earlier start offered is at an address that is nobody's now
        try:
            while True:
                await self._look()
                await asyncio.sleep(limits.ENGINE_LOOK_S)
        finally:
            tasks = [*self._ending.values(), *(task for _, task in self._running.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _specs(self) -> dict[str, EngineSpec]:
        try:
            return await asyncio.to_thread(engine_files.specs, self._data)
        except SteelyardError as error:
            self._tell(f"Engines: {error}")
            return {name: spec for name, (spec, _) in self._running.items()}

    async def _look(self) -> None:
        wanted = await self._specs()
        for name, (spec, task) in list(self._running.items()):
            now = wanted.get(name)
            other = now is None or now.wanted is not Wanted.RUN or now.generation != spec.generation
            if other and name not in self._ending:
                self._ending[name] = asyncio.ensure_future(self._end(spec, task, now))
        for name, spec in wanted.items():
            if spec.wanted is Wanted.RUN and name not in self._running:
                self._running[name] = spec, asyncio.ensure_future(self._keep(spec))
            elif spec.wanted is Wanted.REMOVED and name not in self._running:
                await self._forget(name)

    async def _keep(self, spec: EngineSpec) -> None:
        """Start it; after its first start the supervisor restarts it whenever it ends."""
        for attempt in range(10**9):
            self._put(spec.name, EngineState.STARTING, spec.reason)
            try:
                await self._supervisor.start(self._service(spec))
            except SteelyardError as error:
                delay_ms = limits.RESTART_DELAYS_MS[min(attempt, len(limits.RESTART_DELAYS_MS) - 1)]
                self._put(spec.name, EngineState.FAILED, str(error))
                self._tell(f"Engine {spec.name}: {error} Trying again in {delay_ms / 1000:g} s.")
                await asyncio.sleep(delay_ms / 1000)
            else:
                return

    async def _end(self, spec: EngineSpec, task: asyncio.Task[None], now: EngineSpec | None) -> None:
        """Nothing new is sent to it, what runs ends, then it is stopped."""
        why = now.reason if now is not None and now.reason else "as asked"
        self._tell(f"Engine {spec.name}: draining ({why}).")
        await self._withdraw(spec.name)
        if task.done():
            await self._idle(spec)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._supervisor.retire(KEEPER + spec.name, limits.ENGINE_STOP_S + limits.STOP_MARGIN_S)
        del self._running[spec.name], self._ending[spec.name]
        if now is not None and now.wanted is Wanted.DRAINED:
            self._put(spec.name, EngineState.DRAINED, why)
        self._tell(f"Engine {spec.name}: {'no longer used' if spec.adopted else 'stopped'}.")

    async def _idle(self, spec: EngineSpec) -> None:
        """Until nothing has run there for a moment, or for as long as a drain may take."""
        deadline_ns = self._clock.monotonic_ns() + limits.ENGINE_DRAIN_S * NS_PER_S
        idle, looked_ns = 0, self._clock.now_ns()
        while idle < _IDLE_LOOKS and KEEPER + spec.name in self._supervisor.pids:
            if self._clock.monotonic_ns() > deadline_ns:
                self._tell(f"Engine {spec.name}: its answers did not end within {limits.ENGINE_DRAIN_S} s.")
                return
            await asyncio.sleep(limits.ENGINE_LOOK_S / 4)
            seen = await asyncio.to_thread(engine_files.seen, self._data, spec.name)
            if seen is None or seen.seen_ns <= looked_ns or seen.load is None:
                continue
            looked_ns = seen.seen_ns
            idle = 0 if seen.load.running or seen.load.waiting else idle + 1

    def _service(self, spec: EngineSpec) -> Service:
        command = [sys.executable, "-m", "steelyard.processes.keeper", "--data", str(self._data.root)]
        command += ["--name", spec.name]
        start_s = (spec.start_s or limits.ENGINE_START_S) + limits.START_S

        async def ready(greeting: str) -> None:
            with contextlib.suppress(StartError):  # a full disk ends no engine
                await asyncio.to_thread(engine_files.note_start, self._data, spec.name, self._clock.now_ns())
            await self._register(spec, json.loads(greeting))

        environment = {DATABASE_VARIABLE: ""}
        return Service(KEEPER + spec.name, lambda: command, environment, ready=ready, start_s=start_s)

    async def _register(self, spec: EngineSpec, told: dict[str, Any]) -> None:
        context = told["context_tokens"]
        registration = {
            "name": spec.model,
            "upstream": spec.name,
            "address": told["address"],
            "upstream_model": told["model"],
            "context_tokens": context,
            "max_output_tokens": context,
            "default_max_tokens": min(_ANSWER_TOKENS_DEFAULT, context),
            "kind": "openai",
        }
        await self._have_done("model.register", registration)
        self._tell(f"Engine {spec.name}: {spec.kind} serves {spec.model} at {told['address']}.")

    async def _forget(self, name: str) -> None:
        await self._have_done("vendor.remove", {"upstream": name})
        await asyncio.to_thread(engine_files.drop_spec, self._data, name)

    async def _withdraw(self, name: str) -> None:
        await self._have_done("model.withdraw", {"upstream": name})

    async def _have_done(self, op: str, payload: dict[str, Any]) -> None:
        """Books that are just restarting are waited for: an engine may have taken half an hour to load. Raises the
        CallerError of what they refuse."""
        told = ""
        while True:
            try:
                await asyncio.to_thread(self._command, op, payload)
            except SteelyardError as error:
                if isinstance(error, CallerError) and error.status < 500:
                    raise
                if str(error) != told:
                    self._tell(f"Engine {payload['upstream']}: {error}")
                told = str(error)
                await asyncio.sleep(limits.ENGINE_LOOK_S)
            else:
                return

    def _put(self, name: str, state: EngineState, reason: str) -> None:
        with contextlib.suppress(StartError):  # a full disk ends no engine
            engine_files.put_seen(self._data, name, EngineSeen(state, self._clock.now_ns(), reason))
