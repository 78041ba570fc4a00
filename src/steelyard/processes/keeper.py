"""The keeper of a GPU engine: starts the server or adopts one, and looks after it as long as the platform runs.

Owns the server's process, its health, its clock (busy GPU time and measured energy, shared among what runs) and what is
told of it. Leaves on SIGTERM and when its parent is gone, and takes a server it started with it; an adopted one stays.
Knows no customer, price or journal.
"""

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.address import Address, address_of
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S, Clock, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import Energy, EngineKind, EngineLoad, EngineSeen, EngineSpec, EngineState
from steelyard.kernel.errors import StartError, SteelyardError
from steelyard.metering.energy import EnergyClock, clock_path
from steelyard.metering.engine_load import load_from_metrics
from steelyard.metering.power import PowerMeter, nvml_for
from steelyard.processes import engine_files
from steelyard.processes.child import reason_from_code
from steelyard.processes.engine_command import HOST, Started, start_of
from steelyard.upstream.sealed import Master

_PR_SET_PDEATHSIG = 1
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop, or until the server is gone; the exit code."""
    parser = argparse.ArgumentParser(prog="steelyard-keeper", description="Look after one GPU engine.")
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--name", required=True, help="the engine's name")
    options = parser.parse_args(arguments)
    stop = _told_to_stop()
    data, clock = DataDir(options.data), SystemClock()
    try:
        keeper = Keeper(data, engine_files.spec(data, options.name), clock, stop)
        keeper.run()
    except SteelyardError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


class Keeper:
    """One engine and its server. `run` returns when `stop` is set; a server that is gone is a StartError."""

    def __init__(self, data: DataDir, spec: EngineSpec, clock: Clock, stop: threading.Event) -> None:
        self._data = data
        self._spec = spec
        self._clock = clock
        self._stop = stop
        self._key = _opened(data, spec)
        self._server: Server | None = None
        self._address = spec.address
        self._ticks: Ticks | None = None
        self._told: EngineState | None = None
        self._told_ns = 0

    def run(self) -> None:
        try:
            if not self._spec.adopted:
                self._start()
            self._tell(EngineState.STARTING)
            model, context = self._await_health()
            if not self._stop.is_set():
                self._ticks = self._ticking()
                self._tell(EngineState.RUNNING)
                greeting = {"address": self._address, "model": model, "context_tokens": context}
                print("ready", json.dumps(greeting), flush=True)
                self._look_after()
        finally:
            if self._server is not None:
                self._server.end()

    def _start(self) -> None:
        port = _free_port()
        arguments_file = engine_files.arguments_file(self._data, self._spec.name)
        started = start_of(self._spec, port, self._key, str(arguments_file))
        if started.config:
            engine_files.put_arguments(self._data, self._spec.name, started.config)
        self._address = f"{HOST}:{port}"
        print(f"starting: {started.shown}", file=sys.stderr, flush=True)
        self._server = Server(started, self._key)

    def _await_health(self) -> tuple[str, int]:
        """Until the server answers: the model's name there and its context. Raises StartError when it never does."""
        deadline_ns = self._clock.monotonic_ns() + (self._spec.start_s or limits.ENGINE_START_S) * NS_PER_S
        while not self._stop.is_set():
            self._still_there()
            try:
                found = self._models()
            except (OSError, http.client.HTTPException):
                found = None
            if found is not None:
                return found
            if self._clock.monotonic_ns() > deadline_ns:
                raise StartError(f"{self._spec.kind} does not answer at {self._address}. Is it running there?")
            self._tell(EngineState.STARTING)
            self._stop.wait(limits.ENGINE_TICK_MS / 1000)
        return "", 0

    def _models(self) -> tuple[str, int] | None:
        """What it serves, or None while it loads. Raises StartError when it is not what we were told."""
        if self._get("/health", api=False)[0] != 200:
            return None
        status, body = self._get("/models", api=True)
        if status in (401, 403):
            raise StartError(f"{self._spec.kind} at {self._address} does not take the key it was added with.")
        if status != 200:
            return None
        served = _served(body)
        wanted = self._spec.weights if self._spec.adopted and self._spec.weights else ""
        names = [name for name, _ in served if not wanted or name == wanted]
        if not names:
            offered = ", ".join(name for name, _ in served) or "nothing"
            raise StartError(f"{self._spec.kind} at {self._address} serves {offered}, not {wanted or 'a model'}.")
        context = self._spec.context_tokens or dict(served)[names[0]]
        if not context:
            raise StartError(f"{self._spec.kind} does not say how long its context is. Add the engine with --context.")
        return names[0], context

    def _ticking(self) -> "Ticks":
        here = not self._spec.adopted or address_of(self._address).host in _LOCAL
        power = nvml_for(self._spec.gpus) if here and self._spec.gpus else None
        first = self._load()
        if first is None:
            raise StartError(
                f"{self._spec.kind} at {self._address} tells no metrics, so its work cannot be counted. "
                "Start it with them (SGLang: --enable-metrics)."
            )
        clock = EnergyClock(clock_path(self._data.energy, self._spec.name))
        return Ticks(clock, self._clock, self._spec, power, first)

    def _look_after(self) -> None:
        failures = 0
        ticks = self._ticks
        while ticks is not None and not self._stop.wait(limits.ENGINE_TICK_MS / 1000):
            self._still_there()
            load = self._load()
            failures = failures + 1 if load is None else 0
            if failures >= limits.ENGINE_FAILURES_MAX:
                raise StartError(f"{self._spec.kind} at {self._address} did not tell its metrics {failures} times.")
            ticks.tick(load)
            self._tell(EngineState.RUNNING)

    def _still_there(self) -> None:
        if self._server is not None and (reason := self._server.gone()):
            raise StartError(f"{self._spec.kind} ended ({reason})")

    def _load(self) -> EngineLoad | None:
        try:
            status, body = self._get("/metrics", api=False)
        except (OSError, http.client.HTTPException):
            return None
        return load_from_metrics(self._spec.kind, body.decode(errors="replace")) if status == 200 else None

    def _get(self, path: str, *, api: bool) -> tuple[int, bytes]:
        where = address_of(self._address)
        connection = _connection(where)
        try:
            headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
            connection.request("GET", where.api(path) if api else path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(limits.ENGINE_METRICS_BYTES_MAX)
        finally:
            connection.close()

    def _tell(self, state: EngineState) -> None:
        """Write down what is seen: now and then, and at once when it is something else."""
        now_ns, ticks = self._clock.monotonic_ns(), self._ticks
        fresh = now_ns - self._told_ns < limits.ENGINE_SEEN_MS * NS_PER_MS
        if fresh and state is self._told and not (ticks is not None and ticks.turned):
            return
        self._told, self._told_ns = state, now_ns
        command = self._server.shown if self._server is not None else ""
        seen = EngineSeen(state, self._clock.now_ns(), address=self._address, command=command)
        with contextlib.suppress(StartError):  # a full disk ends no answer
            engine_files.put_seen(self._data, self._spec.name, seen if ticks is None else ticks.seen(seen))


class Ticks:
    """What an engine did, look by look: its clock is ticked, and the sums are kept for people."""

    def __init__(
        self, energy: EnergyClock, clock: Clock, spec: EngineSpec, power: PowerMeter | None, first: EngineLoad
    ) -> None:
        self._energy = energy
        self._clock = clock
        self._gpus = spec.gpu_count
        self._tells = spec.kind is not EngineKind.SGLANG or spec.adopted
        self._power = power
        self._began_ns = self._last_ns = clock.monotonic_ns()
        self._busy_ns = self._busy_uj = self._idle_uj = 0
        self._load = first
        self.turned = True  # from busy to idle or back since it was last told

    def tick(self, load: EngineLoad | None) -> None:
        """The time since the last tick was busy when something ran at its end. None: the server did not tell.

        SGLang tells how many run at a prefill, at every 40th step and after half a minute of rest (its
        metrics_reporter.py, 0.5.15), so of one that is started here what our workers have there counts. One that was
        adopted may have others' answers.
        """
        now_ns = self._clock.monotonic_ns()
        elapsed_ns, self._last_ns = now_ns - self._last_ns, now_ns
        used_uj = self._power.used_uj() if self._power is not None else None
        if load is None:
            return
        ours = self._energy.running()
        if not self._tells:
            load = msgspec.structs.replace(load, running=ours)
        self.turned = self.turned or bool(load.running) != bool(self._load.running)
        self._load = load
        if load.running:
            self._busy_ns += elapsed_ns
            self._busy_uj += used_uj or 0
            # It tells nobody whose turn it is, and tells of a burst when its first step is done: everybody shares whom
            # it knows of, or we do, so that no more is given than was used.
            everybody = max(load.running + load.waiting, ours) if self._tells else ours
            self._energy.add(elapsed_ns * self._gpus, everybody, used_uj)
        else:
            self._idle_uj += used_uj or 0

    def seen(self, seen: EngineSeen) -> EngineSeen:
        """With what was counted."""
        self.turned = False
        return msgspec.structs.replace(
            seen,
            load=self._load,
            busy_ns=self._busy_ns,
            up_ns=self._last_ns - self._began_ns,
            energy=Energy.MODELLED if self._power is None else Energy.NVML,
            busy_uj=self._busy_uj,
            idle_uj=self._idle_uj,
        )


class Server:
    """A server that we started. What it writes, but its key, goes to our log; its last line is kept for the reason. It
    gets no variable of ours but those it was started with: no key of a vendor, and none that opens them."""

    def __init__(self, started: Started, key: str) -> None:
        self.shown = started.shown
        self._key = key
        self._last = ""
        try:
            self._process = subprocess.Popen(
                started.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**_not_ours(), **started.environment},
                start_new_session=True,  # its children are ended with it
                preexec_fn=_die_with_keeper(),  # noqa: PLW1509 - our other thread only reads a pipe and holds no lock
            )
        except OSError as error:
            raise StartError(
                f"{started.command[0]} cannot be started: {error.strerror}. Is it installed here?"
            ) from None
        self._reader = threading.Thread(target=self._read, name="server", daemon=True)
        self._reader.start()

    def gone(self) -> str:
        """How it ended, with its last words; empty while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        self._reader.join(1)
        return f"{reason_from_code(code)}: {self._last}" if self._last else reason_from_code(code)

    def end(self) -> None:
        """SIGTERM, after a while SIGKILL, for the server and all its children."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limits.ENGINE_STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        with self._process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if self._key:
                    text = text.replace(self._key, "…")  # SGLang writes down all it was started with
                self._last = text[: limits.LOG_LINE_BYTES_MAX] or self._last
                with contextlib.suppress(OSError):  # a full disk must not stop the reader, or the server would block
                    print(text, file=sys.stderr, flush=True)


def _not_ours() -> dict[str, str]:
    """The environment without what is ours, which a server and the code of its model could read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STEELYARD_")}


def _die_with_keeper() -> Callable[[], None] | None:
    """Linux: the server gets SIGTERM when its keeper is killed, so that no GPU stays taken by nobody's server."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _told_to_stop() -> threading.Event:
    """Set on SIGTERM, SIGINT, and when standard input ends: then the parent is gone."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def wait_for_end() -> None:
        while os.read(0, 1024):
            pass
        stop.set()

    threading.Thread(target=wait_for_end, name="parent", daemon=True).start()
    return stop


def _opened(data: DataDir, spec: EngineSpec) -> str:
    if not spec.token:
        return ""
    try:
        return Master(data.master).open(spec.token)
    except StartError as error:
        raise StartError(f"{spec.name} has a key that {error}") from None


def _served(body: bytes) -> list[tuple[str, int]]:
    """Names and contexts from an answer of /v1/models; a context of 0: it does not say."""
    try:
        listed: Any = json.loads(body)["data"]
        return [(str(one["id"]), int(one.get("max_model_len") or 0)) for one in listed]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _connection(where: Address) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if where.tls else http.client.HTTPConnection
    return kind(where.host, where.port, timeout=limits.ENGINE_REPLY_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
