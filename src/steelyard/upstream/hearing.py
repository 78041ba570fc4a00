"""One answer as it comes over the wire: asked for, read event by event, closed. The only read loop of the adapters.

Owns when a connection is given back, and that what came before a failure is delivered before the failure is raised.
Knows no dialect: a `Hearing` reads the events, a `Voice` knows how this upstream says no.
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import Event
from steelyard.upstream.pool import Pool, Request, Response
from steelyard.upstream.sse import EventReader


class Hearing(Protocol):
    """What one sequence has said so far, in the dialect of its upstream."""

    @property
    def done(self) -> bool:
        """It has said all, and the connection may be used again."""
        ...

    def take(self, data: bytes) -> None:
        """Read the data of one event. Raises UpstreamError for an error in the stream, or what cannot be read."""
        ...

    def events(self) -> Iterable[Event]:
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


async def hear(pool: Pool, request: Request, hearing: Hearing, voice: Voice) -> AsyncGenerator[Event, None]:
    """See `Upstream.stream`. Closing it closes the connection, which cancels at the upstream."""
    response = await pool.request(request)
    try:
        if response.status != 200 or not _is_stream(response):
            raise voice.refusal(response, await response.body(limits.UPSTREAM_ERROR_BYTES_MAX))
        reader = EventReader(request.upstream)
        failure: UpstreamError | None = None
        while read := await response.read():
            try:
                for data in reader.feed(read):
                    hearing.take(data)
            except UpstreamError as error:
                failure = error  # what came before it is delivered
            for event in hearing.events():
                yield event
            if failure is not None:
                raise failure
            if hearing.done:
                break
        if hearing.done:
            response.release()
        yield hearing.end()
    except UpstreamError as error:
        raise voice.veiled(error) from None
    finally:
        response.close()


def _is_stream(response: Response) -> bool:
    return response.headers.get(b"content-type", b"").startswith(b"text/event-stream")
