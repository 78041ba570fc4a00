"""The console and the admin API of a worker, put together when the first of their pages is asked for.

SQLAlchemy, the reports and the templates take two thirds of a second to load: a restarted worker serves customers
before that, and one that shows no page never pays for it. Owns the worker's read-only way to the books.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.console.play import PlayEvent, PlayOrder
from steelyard.flow import House
from steelyard.gateway.app import error_response, rest
from steelyard.kernel.clock import Clock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.engines import EngineKnown
from steelyard.kernel.errors import SteelyardError, bad_request, unavailable
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Snapshot
from steelyard.ledger.teller_client import TellerClient
from steelyard.processes import engine_files
from steelyard.processes.playground import play

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Pages:
    """The ASGI callable in front of both."""

    def __init__(self, house: House, teller: TellerClient, data: DataDir, ids: Ids) -> None:
        self._open = lambda: PageHouse(house, teller, data, ids)
        self._opening = asyncio.Lock()
        self._house: PageHouse | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            house = self._house or await self._opened()
        except SteelyardError as error:
            await error_response(unavailable("books_unavailable", str(error)))(scope, receive, send)
            return
        app = house.admin if scope["path"].startswith("/admin/") else house.console
        await app(scope, receive, send)

    async def _opened(self) -> "PageHouse":
        async with self._opening:
            if self._house is None:
                self._house = await asyncio.to_thread(self._open)  # customers' streams go on meanwhile
            return self._house

    def close(self) -> None:
        if self._house is not None:
            self._house.close()


class PageHouse:
    """What the console and the admin API need of this worker, and the two themselves."""

    def __init__(self, house: House, teller: TellerClient, data: DataDir, ids: Ids) -> None:
        """Takes its time. Raises StartError when the database cannot be opened."""
        from steelyard.console.app import console_app
        from steelyard.gateway.admin import admin_routes
        from steelyard.storage.database import open_database

        self._house = house
        self._teller = teller
        self._ids = ids
        self._data = data
        self.secret = data.read_secret()
        self._engine = open_database(data.database, readonly=True)
        self.admin: ASGIApp = rest(admin_routes(self))
        self.console: ASGIApp = console_app(self)

    def close(self) -> None:
        self._engine.dispose()

    @property
    def clock(self) -> Clock:
        return self._house.clock

    @property
    def snapshot(self) -> Snapshot:
        return self._teller.snapshot

    @contextmanager
    def books(self) -> "Iterator[Connection]":
        """Raises CallerError 503 while the database cannot be read, 400 for a number that it cannot have."""
        from sqlalchemy.exc import DataError, InterfaceError, OperationalError

        try:
            with self._engine.connect() as connection:
                yield connection
        except (OverflowError, DataError) as error:
            raise bad_request("The books know no number as large as that.") from error
        except (InterfaceError, OperationalError) as error:
            raise unavailable("books_unavailable", "The books cannot be read at the moment. Try again.") from error

    read = books

    def left_out(self, offer: Offer) -> str:
        return self._house.router.left_out(offer, self.clock.monotonic_ns())

    def engines(self) -> list[EngineKnown]:
        return engine_files.known(self._data)

    def drain_engine(self, name: str, reason: str) -> None:
        engine_files.drain(self._data, name, reason)

    def restart_engine(self, name: str, reason: str) -> None:
        engine_files.restart(self._data, name, reason)

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        return await self._teller.command(op, payload)

    def play(self, order: PlayOrder) -> AsyncGenerator[PlayEvent, None]:
        return play(self._house, self._teller, order, self._ids.next())
