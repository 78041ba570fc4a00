"""What `steelyard up` runs: the command line and environment of each kind of process, and how to tell that it is well.

Knows no order and no restart rule; the supervisor has those.
"""

import asyncio
import contextlib
import errno
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import psutil

from steelyard.cli.desk import Line
from steelyard.config import Settings, directory_of
from steelyard.engines.choice import Choice
from steelyard.engines.leash import EMBEDDING_UPSTREAM, KEY_VARIABLE, LOCAL_UPSTREAM
from steelyard.kernel import limits
from steelyard.kernel.directory import DATABASE_VARIABLE, DataDir
from steelyard.kernel.errors import StartError, SteelyardError
from steelyard.processes.child import Service
from steelyard.processes.supervisor import Check

BOOKS, ENGINE, EMBEDDER, WORKER = "books", "engine", "embedder", "worker-"
_PROBES_PER_WORKER = 4  # the kernel spreads connections; a living worker misses all of them once in 55 rounds


def books_service(settings: Settings, lock: int) -> Service:
    """The books inherit the directory's lock: it is free only when their last write is done."""
    command = [sys.executable, "-m", "steelyard.processes.books", "--data", str(settings.data)]
    command += ["--store-days", str(settings.store_days)]
    environment = directory_of(settings).environment
    return Service(BOOKS, lambda: command, environment, start_s=limits.RECOVERY_START_S, keep=(lock,))


def engine_service(settings: Settings, model: Path, key: str, ready: Callable[[str], Awaitable[None]]) -> Service:
    command = [sys.executable, "-m", "steelyard.processes.engine", "--model", str(model), "--port", "0"]
    command += ["--upstream", LOCAL_UPSTREAM, "--data", str(settings.data), "--threads", str(settings.threads)]
    command += ["--slots", str(settings.slots), "--context", str(settings.context)]
    command += ["--speculate", settings.speculate]
    return Service(ENGINE, lambda: command, environment={KEY_VARIABLE: key, DATABASE_VARIABLE: ""}, ready=ready)


def openvino_service(
    settings: Settings, folder: Path, choice: Choice, key: str, ready: Callable[[str], Awaitable[None]]
) -> Service:
    """What a person set himself beats the choice."""
    given = settings.model_fields_set
    threads = settings.threads if "threads" in given else choice.threads
    slots = settings.slots if "slots" in given else choice.slots
    command = [sys.executable, "-m", "steelyard.processes.engine_openvino", "--folder", str(folder), "--port", "0"]
    command += ["--upstream", LOCAL_UPSTREAM, "--data", str(settings.data), "--threads", str(threads)]
    command += ["--slots", str(slots), "--context", str(settings.context), "--precision", choice.precision]
    command += ["--batch-tokens", str(choice.batch_tokens), "--cache-tokens", str(choice.cache_tokens)]
    command += ["--speculate", settings.speculate, "--cache-precision", choice.cache_precision]
    return Service(ENGINE, lambda: command, environment={KEY_VARIABLE: key, DATABASE_VARIABLE: ""}, ready=ready)


def embedder_service(settings: Settings, model: Path, key: str, ready: Callable[[str], Awaitable[None]]) -> Service:
    """An engine for vectors; its context is what its model has."""
    command = [sys.executable, "-m", "steelyard.processes.engine", "--model", str(model), "--port", "0", "--embedding"]
    command += ["--upstream", EMBEDDING_UPSTREAM, "--data", str(settings.data), "--threads", str(settings.threads)]
    command += ["--slots", str(settings.slots)]
    return Service(EMBEDDER, lambda: command, environment={KEY_VARIABLE: key, DATABASE_VARIABLE: ""}, ready=ready)


def worker_service(
    settings: Settings, number: int, keys: Mapping[str, str], held: Callable[[], Awaitable[object]] | None = None
) -> Service:
    """`keys`: the credentials of upstreams that this start knows, as variables of the environment."""
    command = [sys.executable, "-m", "steelyard.processes.worker", "--data", str(settings.data)]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--worker", str(number), "--workers", str(settings.workers), "--drain", str(settings.drain_s)]
    command += ["--batch-lines", str(settings.batch_lines)]
    command += ["--front", settings.front]
    command += ["--strict"] if settings.durability == "strict" else []
    command += [] if settings.store_days else ["--no-store"]
    command += ["--cors-origins", settings.cors_origins] if settings.cors_origins else []
    command += ["--ca-file", str(settings.ca_file)] if settings.ca_file is not None else []
    environment = {**keys, **directory_of(settings).environment}
    command += ["--held"] if held is not None else []
    return Service(f"{WORKER}{number}", lambda: command, environment, held=held)


def books_check(data: DataDir) -> Check:
    """The books answer a question about themselves."""

    def answers() -> bool:
        try:
            with Line(data.socket) as line:
                line.command("status", {}, limits.HEALTH_REPLY_S)
        except (OSError, SteelyardError):
            return False
        return True

    async def check(pids: Mapping[str, int]) -> frozenset[str]:
        return frozenset() if await asyncio.to_thread(answers) else frozenset(pids)

    return check


def engine_check(address: Callable[[], str]) -> Check:
    """The engine's listener answers anything at all; while it loads it says 503, which is a sign of life."""

    async def check(pids: Mapping[str, int]) -> frozenset[str]:
        host, _, port = address().rpartition(":")
        writer = await _answering(host, int(port), "/health", limits.ENGINE_HEALTH_REPLY_S)
        if writer is None:
            return frozenset(pids)
        writer.close()
        return frozenset()

    return check


def worker_check(host: str, port: int) -> Check:
    """Ask the shared port until every worker should have been met; those never met while a question hung are silent."""

    async def check(pids: Mapping[str, int]) -> frozenset[str]:
        probes = 1 if len(pids) == 1 else _PROBES_PER_WORKER * len(pids)
        writers = await asyncio.gather(
            *(_answering(host, port, "/healthz", limits.HEALTH_REPLY_S) for _ in range(probes))
        )
        met = [writer for writer in writers if writer is not None]
        if len(met) == probes:
            silent: frozenset[str] = frozenset()
        elif not met:
            silent = frozenset(pids)
        else:
            ours = {int(writer.get_extra_info("sockname")[1]) for writer in met}
            silent = await asyncio.to_thread(_without_peer, pids, ours)
        for writer in met:
            writer.close()
        return silent

    return check


def _without_peer(pids: Mapping[str, int], ports: set[int]) -> frozenset[str]:
    """The processes that have no connection to one of our ports."""
    silent = set()
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):  # gone meanwhile: its watcher knows
            connections = psutil.Process(pid).net_connections("tcp")
            if not any(one.raddr and one.raddr.port in ports for one in connections):
                silent.add(name)
    return frozenset(silent)


async def _answering(host: str, port: int, path: str, wait_s: float) -> asyncio.StreamWriter | None:
    """A connection over which a GET was answered in time, or None."""
    writer = None
    try:
        async with asyncio.timeout(wait_s):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            if (await reader.readline()).startswith(b"HTTP/"):
                return writer
    except (OSError, TimeoutError):
        pass
    if writer is not None:
        writer.close()
    return None


def reachable_host(host: str) -> str:
    """The address under which this machine reaches a listener bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound


def reserve_port(host: str, port: int) -> socket.socket:
    """Make sure that nobody else has the port, and keep it for our workers while the result is open.

    It is bound but does not listen, so no connection ever waits in it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for share in (False, True):
        guard = socket.socket(family, socket.SOCK_STREAM)
        try:
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share:
                guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            guard.bind((host, port))
        except OSError as error:
            guard.close()
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken by another program" if taken else f"cannot be used ({error.strerror})"
            choice = "Free it, or choose another with --port." if taken else "Choose another with --port or --host."
            raise StartError(f"Port {port} on {host} {reason}. {choice}") from None
        if share:
            return guard
        guard.close()
    raise AssertionError("unreachable")


def check_space(settings: Settings) -> None:
    """Raises StartError when the journals would not fit on the disk."""
    needed = settings.workers * limits.SEGMENT_BYTES + limits.BOOKS_SEGMENT_BYTES + limits.FREE_BYTES_MIN
    free = shutil.disk_usage(settings.data).free
    if free < needed:
        raise StartError(
            f"The disk is full: {settings.data} has {free // 2**20} MiB left, the journals need {needed // 2**20} MiB. "
            "Free some space, or name another directory with --data."
        )
