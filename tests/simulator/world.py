"""The simulated machine: one queue of events, virtual time, processes that can die between any two of them, and sockets
that lose what was under way. Its disk is in medium.py.

Owns every source of order and chance: all of it is drawn from one seed, so a run is repeated by its seed alone. A
process is an asyncio loop of its own over the common queue; the program's coroutines run in it unchanged.

A step is one event of that queue: an arrival, a read, a turn of a coroutine, bytes at a socket, a job of the database's
thread, a turn of the syncer, a fault. Within a step a process may still die at every labelled place (`burn`).
"""

import asyncio
import contextlib
import errno
import heapq
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulator.medium import Medium, SimDisk, path_of

from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.metering.lock import SeriesLock

US = 1_000
CALM_NS = 6 * NS_PER_S  # after a disturbance, money of the dead may be tied up for that long
_set_running_loop = asyncio._set_running_loop
_get_running_loop = asyncio._get_running_loop


class Killed(BaseException):
    """Raised inside a process that dies in the middle of a step. Nothing in the program may catch it."""


class Handle:
    """What `call_soon` and `call_at` return."""

    __slots__ = ("args", "callback", "cancelled_", "owner", "when_ns")

    def __init__(self, when_ns: int, owner: "Process | None", callback: Callable[..., object], args: Any) -> None:
        self.when_ns, self.owner, self.callback, self.args, self.cancelled_ = when_ns, owner, callback, args, False

    def cancel(self) -> None:
        self.cancelled_ = True

    def cancelled(self) -> bool:
        return self.cancelled_

    def when(self) -> float:
        return self.when_ns / NS_PER_S


class World:
    """Time, chance and the queue of everything that will happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_ns = 0
        self.wall_ns = 0  # the machine's clock may step; `now_ns` never does
        self.steps = 0
        self.trail: deque[str] = deque(maxlen=30)
        self.tally: Counter[str] = Counter()  # what was injected, by name, at the moment it took effect
        self.processes: list[Process] = []
        self.listeners: dict[str, tuple[Process, Callable[[], Any]]] = {}
        self.disturbed_ns = -CALM_NS  # the last time anything was made to fail
        self.syncing = 0
        self.current: Process | None = None  # whose step this is
        self._queue: list[tuple[int, int, Handle]] = []
        self._sequence = 0

    def say(self, what: str) -> None:
        """One line of the trail that a failure prints."""
        self.trail.append(f"{self.steps:>8} {self.now_ns / NS_PER_MS:>12.3f} ms  {what}")

    def disturb(self, what: str) -> None:
        self.disturbed_ns = self.now_ns
        self.say(what)

    def note(self, what: str, name: str) -> None:
        """A disturbance that takes effect now."""
        self.tally[name] += 1
        self.disturb(what)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def at(self, when_ns: int, owner: "Process | None", callback: Callable[..., object], *args: Any) -> Handle:
        handle = Handle(when_ns, owner, callback, args)
        self._sequence += 1
        heapq.heappush(self._queue, (when_ns, self._sequence, handle))
        return handle

    def after(self, delay_ns: float, callback: Callable[..., object], *args: Any) -> Handle:
        """An event of the world outside: customers, faults, the passing of time."""
        return self.at(self.now_ns + int(delay_ns), None, callback, *args)

    def step(self) -> bool:
        """Let the next thing happen. False when nothing ever will."""
        while self._queue:
            when_ns, _, handle = heapq.heappop(self._queue)
            owner = handle.owner
            if handle.cancelled_ or (owner is not None and owner.dead):
                continue
            if when_ns > self.now_ns:
                self.now_ns = when_ns
            if owner is not None and owner.paused:
                owner.delayed.append(handle)
                continue
            self.steps += 1
            before, acting = _get_running_loop(), self.current
            _set_running_loop(None if owner is None else owner.loop)
            self.current = owner
            try:
                handle.callback(*handle.args)
            except Killed:
                pass
            finally:
                _set_running_loop(before)
                self.current = acting
            return True
        return False

    def overlap(self) -> None:
        """What the other threads do while one is in the kernel, syncing."""
        if self.syncing < 2 and self.chance(0.3):
            self.syncing += 1
            for _ in range(self.random.randrange(1, 12)):
                self.step()
            self.syncing -= 1


class Process:
    """One process of the platform: a loop, a disk as it sees it, its sockets, its open files."""

    def __init__(self, world: World, name: str, medium: Medium) -> None:
        self.world, self.name = world, name
        self.pid = 1000 + len(world.processes)
        self.loop = Loop(self)
        self.disk = SimDisk(self, medium)
        self.kind = name.partition(" ")[0]
        self.dead = self.paused = False
        self.delayed: list[Handle] = []
        self.transports: list[Transport] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.on_death: list[Callable[[], None]] = []
        self.files: dict[int, str] = {}  # segments it has open, for the kernel to close
        self.locks: list[SeriesLock] = []
        self.fuse = 0  # counts down at every labelled place of the program; dies there at zero
        world.processes.append(self)

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        self.world.at(self.world.now_ns, self, lambda: self.loop.create_task(main))

    def kill(self, why: str) -> None:
        """SIGKILL: nothing of it runs any more; what the kernel has of it stays."""
        if self.dead:
            return
        self.dead = True
        self.world.tally[f"{self.kind} killed {why}"] += 1
        self.world.disturb(f"{self.name} killed {why}")
        self.bury()

    def exit(self) -> None:
        """The end it chose itself."""
        if not self.dead:
            self.dead = True
            self.world.say(f"{self.name} ended")
            self.bury()

    def bury(self) -> None:
        for transport in list(self.transports):
            transport.peer_lost()
        for path in [path for path, (owner, _) in self.world.listeners.items() if owner is self]:
            del self.world.listeners[path]
        for last in self.on_death:
            last()
        for fd, path in self.files.items():
            if path_of(fd) == path:
                os.close(fd)
        for lock in self.locks:
            with contextlib.suppress(ValueError, OSError):
                lock.release()

    def burn(self, where: str) -> None:
        """A labelled place: dies here when its fuse has burnt down, and for ever after."""
        if self.dead:
            raise Killed
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.kill(f"at {where}")
                raise Killed

    def pause(self, ns: int) -> None:
        """SIGSTOP, and SIGCONT after `ns`."""
        self.paused = True
        self.world.tally[f"{self.kind} stopped and continued"] += 1
        self.world.disturb(f"{self.name} stopped for {ns // NS_PER_MS} ms")
        self.world.after(ns, self.resume)

    def resume(self) -> None:
        self.paused = False
        self.world.disturb(f"{self.name} goes on")
        delayed, self.delayed = self.delayed, []
        for handle in delayed:
            self.world.at(self.world.now_ns, self, _unless_cancelled, handle)


def _unless_cancelled(handle: Handle) -> None:
    if not handle.cancelled_:
        handle.callback(*handle.args)


class Loop(asyncio.AbstractEventLoop):
    """As much of an event loop as the program uses, over the world's queue."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._cursor_ns = 0
        self._work: dict[int, int] = {}  # executor → when its thread is free again

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        """In order, and each a little after the one before: other processes' steps fall in between."""
        world = self._world
        now_ns = max(world.now_ns, self._cursor_ns) + int(world.random.random() * 4 * US)
        self._cursor_ns = now_ns
        return world.at(now_ns, self._process, callback, *args)

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        when_ns = self._world.now_ns + int(max(0.0, delay) * NS_PER_S) + int(self._world.random.random() * 50 * US)
        return self._world.at(when_ns, self._process, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.call_later(when - self.time(), callback, *args)

    def time(self) -> float:
        return self._world.now_ns / NS_PER_S

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name)
        self._process.tasks.append(task)
        if len(self._process.tasks) > 500:
            self._process.tasks = [task for task in self._process.tasks if not task.done()]
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self._process.dead and error is not None and not isinstance(error, Killed):
            self._world.say(f"{self._process.name}: {context.get('message')}: {error!r}")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """One thread per executor: jobs run one after the other, and their answers come in that order."""
        future = self.create_future()
        world = self._world
        begin_ns = max(world.now_ns, self._work.get(id(executor), 0)) + int(world.random.random() * 100 * US)
        answer_ns = begin_ns + int(world.random.random() * 300 * US)
        self._work[id(executor)] = answer_ns
        world.at(begin_ns, self._process, self._work_off, future, answer_ns, func, args)
        return future

    def _work_off(self, future: "asyncio.Future[Any]", answer_ns: int, func: Callable[..., Any], args: Any) -> None:
        _set_running_loop(None)
        try:
            outcome, value = future.set_result, func(*args)
        except Exception as error:  # whatever the job raises is its answer
            outcome, value = future.set_exception, error
        self._world.at(answer_ns, self._process, _answer, future, outcome, value)

    async def create_unix_server(self, factory: Callable[[], Any], path: str, **_: Any) -> Any:  # type: ignore[override]
        self._world.listeners[path] = (self._process, factory)
        return Server(self._world, path)

    async def create_unix_connection(self, factory: Callable[[], Any], path: str, **_: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(50e-6)
        found = self._world.listeners.get(path)
        if found is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        server, accept = found
        ours, theirs = Transport(self._process), Transport(server)
        ours.peer, theirs.peer = theirs, ours
        ours.protocol = factory()
        self._world.at(self._world.now_ns, server, theirs.accept, accept)
        ours.protocol.connection_made(ours)
        return ours, ours.protocol


def _answer(future: "asyncio.Future[Any]", outcome: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        outcome(value)


class Server:
    def __init__(self, world: World, path: str) -> None:
        self._world, self._path = world, path

    def close(self) -> None:
        self._world.listeners.pop(self._path, None)


class Transport:
    """One end of a stream socket: bytes arrive late and cut anywhere, in order; what is under way can be lost."""

    def __init__(self, owner: Process) -> None:
        self._owner = owner
        self._world = owner.world
        self.peer: Transport = self
        self.protocol: Any = None
        self._closing = self._lost = False
        self._free_ns = 0
        self._waiting: list[bytes] = []  # written to us before we had accepted
        owner.transports.append(self)

    def accept(self, factory: Callable[[], Any]) -> None:
        if self._lost:
            return
        self.protocol = factory()
        self.protocol.connection_made(self)
        for data in self._waiting:
            self.protocol.data_received(data)

    def write(self, data: bytes) -> None:
        if self._closing:
            return
        cut = self._world.random.randrange(len(data) + 1) if self._world.chance(0.05) else 0
        for piece in (data[:cut], data[cut:]):
            if piece:
                self._deliver(self.peer.receive, piece)

    def receive(self, data: bytes) -> None:
        if self._lost or self._owner.dead:
            return
        if self.protocol is None:
            self._waiting.append(data)
        else:
            self.protocol.data_received(data)

    def close(self) -> None:
        """What was written still arrives."""
        if not self._closing:
            self._closing = True
            self._deliver(self.peer.lost)
            self._world.at(self._world.now_ns, self._owner, self.lost)

    def abort(self) -> None:
        """What was written may be lost, in both directions."""
        if not self._closing:
            self._closing = True
            self._world.at(self._world.now_ns, self._owner, self.lost)
            self.peer._closing = True
            self._world.at(self._world.now_ns, self.peer._owner, self.peer.lost)

    def peer_lost(self) -> None:
        """Our process is dead: what it had written arrives, then the end."""
        if not self._lost:
            self._lost = True
            self._deliver(self.peer.lost)

    def lost(self) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        if self in self._owner.transports:
            self._owner.transports.remove(self)
        if self.protocol is not None:
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def _deliver(self, callback: Callable[..., None], *args: Any) -> None:
        late_ns = int(self._world.random.random() * 60 * US)
        if self._world.chance(0.01):
            late_ns *= 100
        self._free_ns = max(self._free_ns, self._world.now_ns) + late_ns
        self._world.at(self._free_ns, self.peer._owner, callback, *args)


class SimClock:
    """The machine's clocks as a process sees them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now_ns(self) -> int:
        return self._world.wall_ns + self._world.now_ns

    def monotonic_ns(self) -> int:
        return self._world.now_ns
