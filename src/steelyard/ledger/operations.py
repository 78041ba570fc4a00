"""Money operations by hand: who did what and why, and the same key never does it twice.

One row for each, beside the batch it posted. The batch's note carries reason and actor too, and is part of its hash.
Works in the caller's transaction.
"""

import json
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError
from steelyard.storage import tables


class Why(NamedTuple):
    """Reason and actor."""

    reason: str
    actor: str

    @property
    def note(self) -> str:
        """What the batch says about it."""
        return " ".join(part for part in (self.reason, f"({self.actor})" if self.actor else "") if part)


class Operation(NamedTuple):
    """What was done; `asked` is what an idempotency key stands for, `answer` what a repeat of it gets again."""

    kind: str
    tenant_id: int | None
    asked: tuple[Any, ...]
    answer: dict[str, Any]
    batch_id: int | None = None
    amount_nano: int | None = None
    request_id: bytes | None = None
    reverses_id: int | None = None
    key: str | None = None


def answered_before(connection: Connection, tenant_id: int, key: str, asked: tuple[Any, ...]) -> dict[str, Any] | None:
    """The answer of the operation with this key, if there was one. CallerError 409 when it was another operation."""
    columns = tables.operations.c
    query = select(columns.asked, columns.answer).where(columns.tenant_id == tenant_id, columns.idempotency_key == key)
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    if found.asked != json.dumps(asked):
        raise CallerError(
            409,
            "idempotency_conflict",
            "This idempotency key was used for another operation. Use a new key for a new one.",
            param="idempotency_key",
        )
    answer: dict[str, Any] = json.loads(found.answer)
    return answer


def record(connection: Connection, done: Operation, why: Why, clock: Clock) -> None:
    """Keep what was done."""
    row = {
        "kind": done.kind,
        "tenant_id": done.tenant_id,
        "batch_id": done.batch_id,
        "amount_nano": done.amount_nano,
        "request_id": done.request_id,
        "reverses_id": done.reverses_id,
        "reason": why.reason,
        "actor": why.actor,
        "at_ns": clock.now_ns(),
        "idempotency_key": done.key,
        "asked": json.dumps(done.asked),
        "answer": json.dumps(done.answer),
    }
    connection.execute(insert(tables.operations).values(row))


def reversed_before(connection: Connection, batch_id: int) -> dict[str, Any] | None:
    """The answer of the reversal of this batch, if there was one."""
    columns = tables.operations.c
    answer = connection.execute(select(columns.answer).where(columns.reverses_id == batch_id)).scalar()
    return None if answer is None else dict(json.loads(answer))
