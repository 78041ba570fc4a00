"""One answer as it comes over the wire: asked for, read, closed. The only read loop of the adapters of vendors.

Owns when a connection is given back, and that what came before a failure is delivered before the failure is raised.
Knows no dialect: a `Hearing` reads what comes, a `Voice` knows how this upstream says no.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, Self

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.roles import Told
from steelyard.kernel.run import Signal, Watch
from steelyard.upstream.head import FORM, form_in, line_of
from steelyard.upstream.pool import Destination, Pool, Response


class Hearing(Protocol):
    """What one sequence has said so far, in the dialect of its upstream."""

    @property
    def done(self) -> bool:
        """It has said all, and the connection may be used again."""
        ...

    def hear(self, read: bytes) -> Sequence[Event]:
        """Take one read in. Returns what is new, as `events` does. Raises UpstreamError for an error in the stream, or
        what cannot be read; what came before it is left to be asked for."""
        ...

    def events(self) -> Sequence[Event]:
        """What is new since the last time; the finish is kept for `end`, when the last count is known."""
        ...

    def end(self) -> Event:
        """The last event. Raises UpstreamError when the answer had not come to its end."""
        ...


class Whole(Protocol):
    """What one sequence says that was asked for in one piece."""

    def hear_whole(self, body: bytes) -> Event:
        """Take all of it in. Returns the only event. Raises UpstreamError when that is no answer."""
        ...

    def in_pieces(self) -> Hearing:
        """It comes as a stream all the same."""
        ...


class Voice(Protocol):
    """How an upstream refuses, and what may be told of it."""

    def refusal(self, response: Response, body: bytes) -> UpstreamError:
        """The error behind an answer that is no stream of events."""
        ...

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """The same error without a credential in its words."""
        ...


Keep = Callable[[Event, Usage], Event]
"""Is shown an event, and what those before it come to; what it returns is handed on. Another event in the place of what
was shown is the last one."""
_NOTHING = Usage()
_SAID: Signal[None] = Signal()
_SAID.give(None)


class Heard(msgspec.Struct, eq=False):
    """See `Upstream.stream`. Closing it closes the connection, which cancels at the upstream.

    After `begin`, `take` what is there and wait for `more` where nothing is, or have it `tell`, or iterate. No async
    generator: one of those costs a microsecond for every read.
    """

    _pool: Pool
    _to: Destination
    _body: bytes
    _voice: Voice
    _hearing: Hearing | None  # None: it was asked for in one piece
    _whole: Whole | None = None
    _response: Response | None = None
    _new: Sequence[Event] = ()  # of the last read, to be handed out first
    _told: Told | None = None  # while it tells: whoever is told may have it
    _keep: Keep | None = None  # like him
    _kept: Usage = _NOTHING  # what those who were told have had
    _watch: Watch[Awaitable[None]] | None = None  # while it waits for more to hand on
    _failure: UpstreamError | None = None  # of the same read: what came before it is delivered
    begun: bool = False
    over: bool = False  # all was said, or it was closed
    dry: bool = False  # what had come was taken: wait for more before the next look

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not self.begun and not self.over and (event := await self.begin()) is not None:
            return event
        while (event := self.take()) is None:
            await self.more()
        return event

    async def begin(self) -> Event | None:
        """Ask, and wait for the head of the answer; for all of it, if it was asked for in one piece and comes so: then
        its only event is returned. Raises UpstreamError."""
        self.begun, to, asked, whole = True, self._to, self._body, self._whole
        try:
            if (connection := to.host.free()) is not None:
                self._response = Response(to.host, connection)
                await connection.send(to.head, asked)
            if connection is None or not connection.head_done:
                connection = await self._pool.answering(to, asked, connection)
            response = self._response = Response(to.host, connection, connection.status, connection.head)
            form = connection.form
            if not form and response.status == 200:
                form = form_in(line_of(response.head, FORM))
            if whole is not None and form == b"application/json":
                body, most = response.take() or b"", limits.WHOLE_ANSWER_BYTES_MAX
                if not response.over:
                    body += await response.body(most)
                event = whole.hear_whole(body[:most])
                if not response.over:
                    response.release()
                self.over = True
                return event
            if form == b"text/event-stream":
                if whole is not None:
                    self._hearing = whole.in_pieces()
                return None
            raise self._voice.refusal(response, await response.body(limits.UPSTREAM_ERROR_BYTES_MAX))
        except UpstreamError as error:
            self.close()
            raise self._voice.veiled(error) from None
        except BaseException:
            self.close()
            raise

    def take(self) -> Event | None:
        """The next event; None where none has come. Raises UpstreamError, and StopAsyncIteration behind the last."""
        self.dry = False
        if self._new:
            event, *self._new = self._new
            return event
        if self.over:
            raise StopAsyncIteration
        hearing, response = self._hearing, self._response
        assert hearing is not None and response is not None  # noqa: S101 - it has begun
        try:
            while self._failure is None and not hearing.done:
                read = response.take()
                if read is None:
                    return None
                if not read:
                    break
                try:
                    events = hearing.hear(read)
                except UpstreamError as error:
                    self._failure, events = error, hearing.events()
                if events:
                    self._new = events[1:]
                    self.dry = self._failure is None and not hearing.done and not self._new
                    return events[0]
            if self._failure is not None:
                try:
                    raise self._failure
                finally:
                    self._failure = None  # whose traceback knows us
            if hearing.done and not response.over:
                response.release()
            last = hearing.end()
        except UpstreamError as error:
            self.close()
            raise self._voice.veiled(error) from None
        except BaseException:
            self.close()
            raise
        self.close()
        return last

    def more(self) -> Awaitable[None]:
        """To be awaited until `take` may have something. Raises UpstreamError."""
        assert self._response is not None  # noqa: S101 - it has begun
        try:
            return self._response.more()
        except UpstreamError as error:
            self.close()
            raise self._voice.veiled(error) from None

    async def tell(self, told: Told, keep: Keep, kept: Usage = _NOTHING) -> None:
        """Hand on each event in the very call that brings it, as sequence 0; return when all was said. Raises
        UpstreamError.

        `kept`: what was handed on before. What `told` returns is awaited before more is read. Closing it in `told`
        ends it.
        """
        self._told, self._keep, self._kept = told, keep, kept
        try:
            while not self.over or self._new:
                if (sending := self._hand_on()) is None:
                    sending = await self._watched()
                if sending is not None:
                    await sending
        finally:
            self._told = self._keep = None

    async def _watched(self) -> Awaitable[None] | None:
        """Wait for more and hand it on; returns what to await then."""
        watch = self._watch = Watch(self._hand_on)
        try:
            self._attend(watch)
            return await watch
        finally:
            self._watch = None
            self._attend(None)

    def _hand_on(self) -> Awaitable[None] | None:
        """Hand on what has come. Returns what to await then; None: more is to come."""
        told, keep, response, hearing = self._told, self._keep, self._response, self._hearing
        assert told is not None and keep is not None  # noqa: S101 - it is told
        assert response is not None and hearing is not None  # noqa: S101 - it has begun, and comes in pieces
        event: Event | None
        while True:
            read = None
            if self._new or self.over or self._failure is not None or hearing.done or not (read := response.take()):
                if (event := self.take()) is None:
                    break
            else:  # as nearly always: what `take` does with it, without a call
                try:
                    events = hearing.hear(read)
                except UpstreamError as error:
                    self._failure, events = error, hearing.events()
                if not events:
                    continue
                event = events[0]
                if len(events) > 1:
                    self._new = events[1:]
            kept = keep(event, self._kept)
            if kept is not event:
                self.close()
            self._kept = usage = kept.usage
            if (sending := told(0, kept, usage)) is not None:
                return sending
            if self.over and not self._new:
                return _SAID
            if read and not (self._new or self._failure is not None or hearing.done or response.over):
                return None  # nothing else can have come
        if self._watch is not None:
            self._attend(self._watch)  # or nothing more is to come
        return None

    def _attend(self, watch: Watch[Awaitable[None]] | None) -> None:
        assert self._response is not None  # noqa: S101 - it has begun
        try:
            self._response.attend(watch)
        except UpstreamError as error:
            self.close()
            raise self._voice.veiled(error) from None

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """As `aclose`, at once."""
        self.over = True
        self._new = ()
        if self._response is not None and not self._response.over:
            self._response.close()
