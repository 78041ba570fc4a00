"""What was brought over from another system, and what it became: so that bringing it over again changes nothing.

Works in the caller's transaction. Knows no system and no meaning of an id.
"""

from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from steelyard.kernel.clock import Clock
from steelyard.storage import tables


class Origin(NamedTuple):
    """A thing of another system: `source` names the system, `kind` what it becomes here, `id` its id there."""

    source: str
    kind: str
    id: str


def became(connection: Connection, origin: Origin) -> int | None:
    """The id of what it became here, or None when it was not brought over."""
    columns = tables.origins.c
    query = select(columns.subject_id).where(
        columns.source == origin.source, columns.kind == origin.kind, columns.source_id == origin.id
    )
    return connection.execute(query).scalar_one_or_none()


def remember(connection: Connection, origin: Origin, subject_id: int, clock: Clock) -> None:
    """Keep what it became."""
    row = {
        "source": origin.source,
        "kind": origin.kind,
        "source_id": origin.id,
        "subject_id": subject_id,
        "at_ns": clock.now_ns(),
    }
    connection.execute(insert(tables.origins).values(row))
