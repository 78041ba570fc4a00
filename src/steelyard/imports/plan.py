"""What bringing something over means: steps for the books, in groups that belong together, and what stays behind.

A step never carries a secret that the books do not keep, and `what` never shows one.
"""

from typing import Any

import msgspec

from steelyard.imports.price_text import Left
from steelyard.kernel.frozen import Record


class Step(Record, frozen=True):
    """One thing to be made. `op` and `payload` as `processes.importing` takes them, `what` for people."""

    op: str
    payload: dict[str, Any]
    what: str


class Plan(Record, frozen=True):
    """Steps of one group are made together or in one dry run; later groups may rely on earlier ones being made.

    `credentials` are keys of upstreams by the upstream's name: never shown, and sealed before they go anywhere.
    """

    groups: tuple[tuple[Step, ...], ...]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    credentials: dict[str, str] = msgspec.field(default_factory=dict)


def begun(secret: str) -> str:
    """What may be shown of a key: its first characters, at most a fifth of it."""
    return secret[: min(9, len(secret) // 5)] + "…"
