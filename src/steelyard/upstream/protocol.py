"""The one thing the house asks of a place that serves a model.

Single sequences only: an engine's own `n` was measured to under-report usage, so fan-out happens above. Knows no
dialect of a customer and no money.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import Turn


class Events(Protocol):
    """What a sequence says; an async generator is one. `aclose()` cancels at the upstream at once."""

    def __aiter__(self) -> AsyncIterator[Event]: ...
    def __anext__(self) -> Awaitable[Event]: ...
    def aclose(self) -> Awaitable[None]: ...


class Upstream(Protocol):
    """A served model, seen from a worker."""

    @property
    def name(self) -> str:
        """The word offers, costs and energy clocks know this upstream by."""
        ...

    def stream(self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool) -> Events:
        """Answer one sequence. `whole`: all of it is waited for, so it may be asked for in one piece and be one Event.

        One Event per read. `Event.usage` is cumulative, never falls, and is exact after every event: all tokens whose
        text was handed out so far are in it. `finish` comes once, on an event that carries the final counts. Raises
        UpstreamError: status 400 and its kin when the request itself is at fault (its text may be shown to the
        customer), else `retryable` says whether the same request may do better elsewhere or later.
        """
        ...

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        """Answer an order without output tokens: `found` has one value per part, `usage` the tokens that were read.

        Cancelling it ends the call. Raises UpstreamError as `stream` does.
        """
        ...

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        """How many prompt tokens `stream` would meter for this; None when the upstream cannot say. Generates nothing.

        Raises UpstreamError as `stream` does.
        """
        ...

    async def ready(self, offer: Offer) -> bool:
        """Whether the upstream would take a request now. Never raises for an upstream that is away."""
        ...


class Queued(Protocol):
    """An upstream before which a line may stand."""

    def in_turn(self, offer: Offer, turn: Turn) -> Upstream:
        """The upstream for one order: its sequences wait for their turn."""
        ...


class Work(Protocol):
    """Who keeps account of what an order takes of an engine."""

    def waits(self) -> None:
        """Nothing, until its sequences begin."""
        ...

    def begins(self) -> None:
        """One of them does, or goes on after a rest."""
        ...

    def stops(self) -> None:
        """One that had begun makes way for others, or has ended."""
        ...


def writes_only(upstream: str, capability: Capability) -> UpstreamError:
    """What an adapter raises that was asked to read something it knows no place for."""
    message = f"This model is served where nothing can be asked for {capability.value!r}."
    return UpstreamError(upstream, message, status=400).known_as(Fault.NOT_CARRIED)
