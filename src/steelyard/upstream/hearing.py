"""One answer as it comes over the wire: asked for, read, closed. The only read loop of the adapters of vendors.

Owns when a connection is given back, and that what came before a failure is delivered before the failure is raised.
Knows no dialect: a `Hearing` reads what comes, a `Voice` knows how this upstream says no.
"""

from collections.abc import Sequence
from typing import Protocol, Self

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import Event
from steelyard.upstream.pool import Pool, Request, Response


class Hearing(Protocol):
    """What one sequence has said so far, in the dialect of its upstream."""

    @property
    def done(self) -> bool:
        """It has said all, and the connection may be used again."""
        ...

    @property
    def whole(self) -> bool:
        """It was asked for in one piece."""
        ...

    def hear_whole(self, body: bytes) -> None:
        """Take all of it in. Raises UpstreamError when that is no answer."""
        ...

    def hear(self, read: bytes) -> None:
        """Take one read in. Raises UpstreamError for an error in the stream, or what cannot be read."""
        ...

    def events(self) -> Sequence[Event]:
        """What is new since the last time; the finish is kept for `end`, when the last count is known."""
        ...

    def end(self) -> Event:
        """The last event. Raises UpstreamError when the answer had not come to its end."""
        ...


class Voice(Protocol):
    """How an upstream refuses, and what may be told of it."""

    def refusal(self, response: Response, body: bytes) -> UpstreamError:
        """The error behind an answer that is no stream of events."""
        ...

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """The same error without a credential in its words."""
        ...


class Heard:
    """See `Upstream.stream`. Closing it closes the connection, which cancels at the upstream.

    No async generator: one of those costs a microsecond for every read.
    """

    __slots__ = ("_failure", "_hearing", "_new", "_over", "_pool", "_request", "_response", "_voice")

    def __init__(self, pool: Pool, request: Request, hearing: Hearing, voice: Voice) -> None:
        self._pool = pool
        self._request = request
        self._hearing = hearing
        self._voice = voice
        self._response: Response | None = None
        self._new: list[Event] = []  # of the last read, to be handed out first
        self._failure: UpstreamError | None = None  # of the same read: what came before it is delivered
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._new:
            return self._new.pop(0)
        if self._over:
            raise StopAsyncIteration
        hearing, response = self._hearing, self._response
        try:
            if response is None:
                response = await self._begin()
            while self._failure is None and not hearing.done and (read := await response.read()):
                try:
                    hearing.hear(read)
                except UpstreamError as error:
                    self._failure = error
                if events := hearing.events():
                    event, *self._new = events
                    return event
            if self._failure is not None:
                raise self._failure
            if hearing.done:
                response.release()
            last = hearing.end()
        except UpstreamError as error:
            self._close()
            raise self._voice.veiled(error) from None
        except BaseException:
            self._close()
            raise
        self._close()
        return last

    async def aclose(self) -> None:
        self._close()

    async def _begin(self) -> Response:
        """The answer: a stream or, if it was asked for in one piece and came so, read already."""
        response = self._response = await self._pool.request(self._request)
        if response.status == 200:
            form = response.header(b"content-type")
            if form.startswith(b"text/event-stream"):
                return response
            if self._hearing.whole and form.startswith(b"application/json"):
                self._hearing.hear_whole(await response.body(limits.WHOLE_ANSWER_BYTES_MAX))
                return response
        raise self._voice.refusal(response, await response.body(limits.UPSTREAM_ERROR_BYTES_MAX))

    def _close(self) -> None:
        self._over = True
        self._new = []
        if self._response is not None:
            self._response.close()
