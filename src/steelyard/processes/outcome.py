"""What a command of the office leaves: its answer, and what the teller and the workers must learn after the commit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard.kernel.records import Caller, Snapshot
from steelyard.ledger.gauges import Seed
from steelyard.ledger.purse import Purse


class KeyChange(NamedTuple):
    """A customer's key that begins, or ends: then `caller` is None."""

    key_id: int
    digest: bytes = b""
    caller: Caller | None = None


class Outcome(NamedTuple):
    """`purses` are those the command changed, as the books have them now."""

    reply: Any
    purses: Mapping[int, Purse] = {}
    snapshot: Snapshot | None = None
    limited: tuple[Seed, ...] = ()  # sub-limits set or lifted
    keys: tuple[KeyChange, ...] = ()  # in the order of the changes
