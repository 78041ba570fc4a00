"""The teller's side of the Unix socket: one session for each worker or command line.

Owns the messages and the quick path of a hold: what wallet and sub-limits cover whole is granted in the same turn of
the loop. Everything that needs the database or another look at the journals is left to `Counter`. Knows no SQL.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError, CallerError, WriterLost, bad_request, overloaded, unavailable
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.ledger import wire
from steelyard.ledger.teller import Teller
from steelyard.processes.errands import ERRANDS, Errands
from steelyard.processes.lending import Lending


class Counter(Protocol):
    """Who stands behind the sessions: `processes.books.Books`."""

    @property
    def teller(self) -> Teller: ...
    @property
    def lending(self) -> Lending: ...
    @property
    def errands(self) -> Errands: ...
    @property
    def open_for_holds(self) -> bool: ...
    async def decide_hold(self, ask: HoldAsk, session: "Session") -> Granted: ...
    async def greet(self, session: "Session", hello: wire.Hello) -> wire.Welcome: ...
    async def command(self, op: str, payload: dict[str, Any]) -> object: ...
    def noticed_close(self, series: str, count: int) -> None: ...
    def session_moved(self) -> None: ...
    def session_opened(self, session: "Session") -> None: ...
    def session_gone(self, session: "Session") -> None: ...


class Session(wire.Link):
    """One connection. `series` is empty until the hello of a worker was answered."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter
        self._tasks: set[asyncio.Task[None]] = set()
        self.series = ""
        self.pid = 0
        self.snapshot = 0
        """The version its worker said it has."""
        self.keys = ""
        """The key table its worker said it has mapped."""
        self.undecided: set[bytes] = set()
        """Requests whose hold takes a second look; a release takes them out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._counter.session_opened(self)

    def on_message(self, number: int, op: str, payload: msgspec.Raw) -> None:
        if op == "hold":
            self._hold(number, wire.decode_hold(payload))
        elif op == "release":
            self._release(wire.decode_id(payload))
        elif op == "closed":
            self._counter.noticed_close(self.series, wire.decode_count(payload))
        elif op == "lease":
            open_for_holds = self._counter.open_for_holds
            self._counter.lending.asked(self.series, wire.decode_lease_ask(payload), open_for_holds=open_for_holds)
        elif op == "returned":
            self._counter.lending.returned(self.series, wire.decode_returned(payload))
        elif op == "known":
            known = wire.decode_known(payload)
            self.snapshot, self.keys = max(self.snapshot, known.version), known.keys
            self._counter.session_moved()
        elif op == "done":
            self._counter.errands.done(wire.decode_done(payload))
        elif number == wire.NOTICE:
            return
        elif len(self._tasks) >= limits.COMMANDS_PENDING_MAX:
            self._refuse(number, overloaded("The books have too many commands waiting."))
        elif op == "hello":
            self._start(self._greet(number, wire.decode_hello(payload)))
        else:
            self._start(self._command(number, op, wire.decode_object(payload)))

    def on_gone(self) -> None:
        self._counter.session_gone(self)

    async def finish(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _hold(self, number: int, ask: HoldAsk) -> None:
        counter = self._counter
        teller = counter.teller
        if not self.series:
            self._refuse(number, bad_request("Say hello as a worker before you ask for a hold."))
        elif not 0 <= ask.floor_nano <= ask.want_nano:
            self._refuse(number, bad_request("A hold needs 0 ≤ floor ≤ want."))
        elif ask.max_tokens < 0 or ask.sequences < 1 or ask.prompt_tokens < 0:
            self._refuse(number, bad_request("A hold is for one sequence at least, and counts no tokens below 0."))
        elif counter.open_for_holds and (granted := teller.grant(ask, self.series, whole=True)) is not None:
            self.send(number, wire.OK, teller.told(ask, granted))
        else:
            self.undecided.add(ask.request_id)
            self._start(self._second_look(number, ask))

    def _release(self, request_id: bytes) -> None:
        if request_id in self.undecided:
            self.undecided.discard(request_id)
            return
        hold = self._counter.teller.find(request_id)
        if hold is not None and hold.owner == self.series:
            self._counter.teller.release(request_id)

    async def _second_look(self, number: int, ask: HoldAsk) -> None:
        try:
            granted = await self._counter.decide_hold(ask, self)
        except CallerError as error:
            self._refuse(number, error)
        else:
            self.send(number, wire.OK, self._counter.teller.told(ask, granted))
        finally:
            self.undecided.discard(ask.request_id)

    async def _greet(self, number: int, hello: wire.Hello) -> None:
        await self._answer(number, self._counter.greet(self, hello))

    async def _command(self, number: int, op: str, payload: dict[str, Any]) -> None:
        run = self._counter.errands.run if op in ERRANDS else self._counter.command
        await self._answer(number, run(op, payload))

    async def _answer(self, number: int, work: Coroutine[Any, Any, object]) -> None:
        try:
            self.send(number, wire.OK, await work)
        except CallerError as error:
            self._refuse(number, error)
        except WriterLost:
            self._refuse(number, unavailable("books_unavailable", "The books have another writer. Try again soon."))
        except BooksError as error:
            self._refuse(number, CallerError(500, "books_error", f"The books refuse: {error}."))

    def _refuse(self, number: int, error: CallerError) -> None:
        self.send(number, wire.ERROR, wire.refusal(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
