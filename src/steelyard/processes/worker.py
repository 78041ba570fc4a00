"""The worker process: the public port.

Puts the rooms together (teller client, meter, upstreams, gateway, console, admin API) and serves until SIGTERM or until
its parent is gone. Owns no rule. Prints `ready` once it answers; one line on stderr and a code ≠ 0 when it cannot start.
"""

import argparse
import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop
from sqlalchemy import Connection, Engine

from steelyard.config import DataDir
from steelyard.console.app import console_app
from steelyard.console.play import PlayEvent, PlayOrder
from steelyard.flow import House
from steelyard.gateway.admin import admin_routes
from steelyard.gateway.app import PublicApp
from steelyard.gateway.server import public_socket, server
from steelyard.kernel import limits
from steelyard.kernel.clock import Clock, SystemClock
from steelyard.kernel.errors import StartError
from steelyard.kernel.ids import Ids
from steelyard.kernel.records import Snapshot
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.processes.playground import play
from steelyard.storage.database import open_database
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool

log = structlog.get_logger()
ENGINE_KEY = "STEELYARD_ENGINE_KEY"
"""Environment variable with the engine's own key; made by the supervisor at each start."""
LOCAL_UPSTREAM = "local"


class PageHouse:
    """What the console and the admin API need of this worker."""

    def __init__(self, house: House, teller: TellerClient, engine: Engine, ids: Ids, secret: bytes) -> None:
        self._house = house
        self._teller = teller
        self._engine = engine
        self._ids = ids
        self.secret = secret

    @property
    def clock(self) -> Clock:
        return self._house.clock

    @property
    def snapshot(self) -> Snapshot:
        return self._teller.snapshot

    @contextmanager
    def books(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    read = books

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        return await self._teller.command(op, payload)

    def play(self, order: PlayOrder) -> AsyncIterator[PlayEvent]:
        return play(self._house, self._teller, order, self._ids.next())


async def run(data: DataDir, listener: socket.socket, worker: int, drain_s: int) -> None:
    """Serve until stopped. Raises StartError when the books or the journal cannot be had."""
    clock = SystemClock()
    ids = Ids(clock)
    teller = TellerClient()
    await teller.connect(data.socket, worker)
    directory = data.journals / teller.series
    journal = Journal.create(directory)
    try:
        meter = Meter(journal, journal.slots, clock, EnergyClocks(data.energy))
        pool = Pool()
        upstream = LlamaCpp(LOCAL_UPSTREAM, pool, os.environ.get(ENGINE_KEY, ""))
        house = House(teller, meter, {LOCAL_UPSTREAM: upstream}, clock)
        engine = open_database(data.database, readonly=True)
        pages = PageHouse(house, teller, engine, ids, data.read_secret())
        routes = [*admin_routes(pages), *console_app(pages).routes]
        running = server(PublicApp(house, teller, ids, routes), drain_s)
        announce = asyncio.ensure_future(_announce(running))
        await running.serve(sockets=[listener])
        announce.cancel()
        await pool.close()
        engine.dispose()
    finally:
        journal.close()
        teller.closed()
        await teller.close()


async def _announce(running: uvicorn.Server) -> None:
    while not running.started:
        await asyncio.sleep(0.005)
    print("ready", flush=True)
