"""The worker process: the public port.

Puts the rooms together (teller client, meter, upstreams, gateway, console, admin API) and serves until SIGTERM or
until its parent is gone. Owns no rule. Prints `ready` once it answers; one line on stderr when it cannot start.
"""

import argparse
import asyncio
import errno
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import structlog
import uvicorn
import uvloop

from steelyard.catalog.conditions import make_calendars
from steelyard.engines.leash import EMBEDDING_UPSTREAM, KEY_VARIABLE, LOCAL_UPSTREAM
from steelyard.flow import House
from steelyard.gateway.app import PublicApp
from steelyard.gateway.batch_lines import BatchGate
from steelyard.gateway.cors import with_cors
from steelyard.gateway.server import AUTO, FRONTS, public_server, public_socket
from steelyard.jobs.content import Content
from steelyard.jobs.run import House as JobHouse
from steelyard.jobs.runner import Runner
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import SteelyardError
from steelyard.kernel.ids import Ids
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.processes.collector import keep_what_is_freed, look_less_often
from steelyard.processes.explaining import Explaining
from steelyard.processes.lifeline import watch_parent, word_came
from steelyard.processes.line_watch import LineWatch
from steelyard.processes.logs import to_stderr
from steelyard.processes.pages import Pages
from steelyard.processes.upstreams import Upstreams
from steelyard.routing.router import Router
from steelyard.upstream.pool import Pool
from steelyard.upstream.sealed import Master
from steelyard.upstream.trust import Trust

log = structlog.get_logger()


class Options(NamedTuple):
    """What a worker is told beside its place."""

    worker: int
    drain_s: int
    strict: bool
    cors_origins: str
    batch_lines: int
    ca_file: Path | None
    stores: bool  # whether responses are stored
    workers: int  # how many share what an offer may be asked for
    front: str


async def run(data: DataDir, listener: socket.socket, options: Options) -> None:
    """Serve until stopped. Raises StartError or BooksError when the books or the journal cannot be had."""
    trust = Trust.of(options.ca_file) if options.ca_file is not None else None
    clock = SystemClock()
    ids = Ids(clock)
    teller = TellerClient()
    await teller.connect(data.socket, options.worker)
    directory = data.journals / teller.series
    journal = Journal.create(directory)
    slots, soon = Slots.create(directory / "slots", limits.SLOTS_PER_WORKER), asyncio.get_running_loop().call_soon
    meter = Meter(journal, slots, clock, EnergyClocks(data.energy, options.worker), soon)
    pool = Pool(trust)
    key = os.environ.get(KEY_VARIABLE, "")
    own = {LOCAL_UPSTREAM: key, EMBEDDING_UPSTREAM: key}
    upstreams = Upstreams(pool, own, teller, Master(data.master), options.workers)
    router = Router(options.workers, options.worker)
    house = House(teller, meter, upstreams, clock, options.strict, router)
    teller.errands["route.explain"] = Explaining(house)
    pages = Pages(house, teller, data, ids)
    content, lines = Content(data.files), asyncio.Semaphore(options.batch_lines)
    jobs = Runner(JobHouse(teller, BatchGate(house), content, clock, ids.next, lines, options.batch_lines))
    try:
        public = PublicApp(house, teller, ids, pages, content, stores=options.stores)
        app = with_cors(public, options.cors_origins)
        running = public_server(app, public.hot, options.drain_s, _ready, options.front)
        watch_parent(asyncio.get_running_loop(), partial(setattr, running, "should_exit", True))
        working = asyncio.ensure_future(jobs.run())
        running.on_drain = working.cancel
        watches = [
            asyncio.ensure_future(_stop_when_fenced(teller, running)),
            asyncio.ensure_future(_stop_when_failed(meter, running)),
            asyncio.ensure_future(_have_calendars(teller, clock)),
            asyncio.ensure_future(LineWatch(data, options.worker, upstreams.waiting, clock).run()),
        ]
        await running.serve(sockets=[listener])
        for task in (working, *watches):
            task.cancel()
        await asyncio.wait([working])
    finally:
        await pool.close()
        meter.close()
        await teller.close()
        pages.close()


def _ready() -> None:
    keep_what_is_freed()
    look_less_often()  # a look through all there is takes tens of milliseconds, in which nobody is served
    print("ready", flush=True)


async def _stop_when_fenced(teller: TellerClient, running: uvicorn.Server) -> None:
    """Books took this worker for dead and settled its journal; whatever it still did would not be counted."""
    await teller.fenced.wait()
    running.should_exit = running.force_exit = True


async def _stop_when_failed(meter: Meter, running: uvicorn.Server) -> None:
    """A journal that failed takes nothing more, but a new worker's may: let streams end and make room for one."""
    while not meter.failed:  # it may fail in the syncer's thread, which knows no loop
        await asyncio.sleep(limits.HEALTH_INTERVAL_S)
        meter.look_again()
    log.error("journal_failed")
    running.should_exit = True


async def _have_calendars(teller: TellerClient, clock: SystemClock) -> None:
    """Make what conditions of tariffs need beside the requests: the first calendar takes a third of a second."""
    known = None
    while True:
        snapshot = teller.snapshot
        if snapshot is not known:
            known = snapshot
            versions = chain.from_iterable((*snapshot.prices.values(), *snapshot.costs.values()))
            await asyncio.to_thread(make_calendars, versions, clock.now_ns())
        await asyncio.sleep(limits.HEALTH_INTERVAL_S)


def _have_files() -> None:
    """A held stream takes two connections, and many systems begin with 1024 for all."""
    bound, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.FILES_MAX if most == resource.RLIM_INFINITY else min(limits.FILES_MAX, most)
    if bound != resource.RLIM_INFINITY and bound < wanted:
        with suppress(OSError, ValueError):  # macOS names no bound and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main() -> int:
    parser = argparse.ArgumentParser(prog="steelyard-worker", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8780)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="how many there are in all")
    parser.add_argument("--drain", type=int, default=limits.DRAIN_S)
    parser.add_argument("--cors-origins", default="", help="web pages that may ask, comma-separated")
    parser.add_argument("--ca-file", type=Path, help="CAs that upstreams may have beside the system's")
    parser.add_argument("--batch-lines", type=int, default=2, help="lines of batches that run at once")
    parser.add_argument("--no-store", action="store_true", help="store no responses")
    parser.add_argument("--strict", action="store_true", help="the last bytes of an answer wait for its close")
    parser.add_argument("--front", choices=[AUTO, *FRONTS], default=AUTO, help="how hot URLs are served")
    parser.add_argument("--held", action="store_true", help="begin when a line comes on standard input")
    arguments = parser.parse_args()
    if arguments.held and not word_came():
        return 0
    to_stderr()
    _have_files()
    # uvicorn takes these signals over while it serves and raises them again when it has drained
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        listener = public_socket(arguments.host, arguments.port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
        print(f"Port {arguments.port} on {arguments.host} {reason}.", file=sys.stderr)
        return 2
    try:
        data = DataDir.of_child(arguments.data)
        told = (arguments.worker, arguments.drain, arguments.strict, arguments.cors_origins, arguments.batch_lines)
        more = (arguments.ca_file, not arguments.no_store, arguments.workers, arguments.front)
        uvloop.run(run(data, listener, Options(*told, *more)))
    except SteelyardError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
