"""What an operation of the admin API is: method, path, what is taken, what answers. The tables are made of these."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.records import Snapshot

PREFIX = "/admin/v1"


class AdminHouse(Protocol):
    """What the admin API needs of the process that serves it. `read` is only entered in a thread of the pool."""

    @property
    def clock(self) -> Clock: ...

    @property
    def snapshot(self) -> Snapshot: ...

    async def command(self, op: str, payload: dict[str, Any]) -> Any: ...

    def read(self) -> AbstractContextManager[Connection]: ...


class Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What an operation takes; a field nobody knows is refused."""


class ByTenant(Asked):
    tenant: str


@dataclass(frozen=True, slots=True)
class Call:
    """One decoded request. What an operation does not declare is absent."""

    place: Any
    query: Any
    body: Any
    header: Callable[[str], str | None]
    operator: str  # the name of the operator key


Run = Callable[[AdminHouse, Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the table."""

    method: str
    path: str
    name: str
    summary: str
    run: Run
    status: int = 200
    place: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body_bytes_max: int = limits.FORM_BYTES_MAX


def commanded(op: str) -> Run:
    """The office's command `op` with all that was sent."""

    async def run(house: AdminHouse, call: Call) -> Any:
        payload: dict[str, Any] = {}
        for part in (call.place, call.query, call.body):
            payload |= {} if part is None else msgspec.to_builtins(part)
        return await house.command(op, {name: value for name, value in payload.items() if value is not None})

    return run
