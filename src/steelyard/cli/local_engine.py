"""The engine of one `steelyard up`: which one, its weights, its start.

Owns the order: choose, fetch, make what OpenVINO wants (once), start. When the engine that was taken by itself does not
start, llama.cpp is started in its place, with the reason. Knows no books.
"""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path

from steelyard.cli.progress import Step, Steps
from steelyard.cli.services import engine_service, openvino_service
from steelyard.config import Settings, directory_of
from steelyard.engines.choice import AUTO, OPENVINO, Asked, Choice, choose, machine_here
from steelyard.engines.converted import folder_of, kept
from steelyard.engines.leash import LOCAL_UPSTREAM
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.errors import StartError
from steelyard.processes.child import Service
from steelyard.processes.engine_files import note_start
from steelyard.processes.supervisor import Supervisor
from steelyard.upstream.weights import cache_directory, fetch

Ready = Callable[[str], Awaitable[None]]


def asked_of(settings: Settings) -> Asked:
    """What the settings want of the engine."""
    return Asked(settings.engine, settings.model is not None, settings.small, settings.speculate)


class LocalEngine:
    """`ready` gets what the engine says of itself, at every start of it."""

    def __init__(self, settings: Settings, key: str, supervisor: Supervisor, steps: Steps) -> None:
        self._settings = settings
        self._key = key
        self._supervisor = supervisor
        self._steps = steps

    async def start(self, ready: Ready) -> None:
        """Raises StartError when no engine can be started."""
        settings = self._settings
        why_not = ""
        choice = choose(machine_here(), asked_of(settings))
        model = settings.model or await self._fetch_weights()
        if choice.engine == OPENVINO:
            try:
                await self._start_openvino(model, choice, ready)
            except StartError as error:
                if settings.engine != AUTO:
                    raise
                why_not = f"OpenVINO did not start. {error}"
                self._steps.print(f"Engine: OpenVINO did not start, so llama.cpp does. {error}")
            else:
                return
        with self._steps.step("Engine", f"loading {model.name}") as step:
            noted = self._noted(ready, why_not or choice.why)
            await self._supervisor.start(engine_service(settings, model, self._key, noted))
            step.done(f"llama.cpp with {settings.threads} threads, {settings.slots} slots; {choice.why}")

    def _noted(self, ready: Ready, why: str) -> Ready:
        """The same, and every start of the engine is written down, with why it was taken."""
        settings = self._settings

        async def noted(greeting: str) -> None:
            facts = {"why": why, "speculate": settings.speculate, "address": json.loads(greeting)["address"]}
            now_ns = SystemClock().now_ns()
            await asyncio.to_thread(note_start, directory_of(settings), LOCAL_UPSTREAM, now_ns, **facts)
            await ready(greeting)

        return noted

    async def _fetch_weights(self) -> Path:
        with self._steps.step("Weights", "looking for the built-in model") as step:
            file = await asyncio.to_thread(fetch, None, step.progress)
            step.done(str(file))
        return file

    async def _start_openvino(self, model: Path, choice: Choice, ready: Ready) -> None:
        folder = folder_of(cache_directory(), model, choice.kind)
        if await asyncio.to_thread(kept, folder) is None:
            with self._steps.step("Weights", "made for OpenVINO, once") as step:
                await converted(model, folder, choice.kind, step)
                step.done(str(folder))
        service: Service = openvino_service(self._settings, folder, choice, self._key, self._noted(ready, choice.why))
        with self._steps.step("Engine", f"loading {folder.name}") as step:
            await self._supervisor.start(service)
            step.done(f"OpenVINO on {choice.why}")


async def converted(model: Path, folder: Path, kind: str, step: Step) -> None:
    """Make the weights in a process of its own: what it needs is not kept in this one. Raises StartError."""
    command = [sys.executable, "-m", "steelyard.engines.converted", "--model", str(model)]
    command += ["--folder", str(folder), "--kind", kind]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    if process.stdout is None or process.stderr is None:
        raise AssertionError("both were asked for")
    errors = asyncio.ensure_future(process.stderr.read())
    try:
        while line := await process.stdout.readline():
            with contextlib.suppress(ValueError):
                done, total = map(int, line.split())
                step.progress(done, total)
        code = await process.wait()
        said = (await errors).decode(errors="replace").strip()
    finally:
        errors.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        reason = said.splitlines()[-1] if said else f"exit code {code}"
        raise StartError(f"The weights cannot be made for OpenVINO: {reason}")
