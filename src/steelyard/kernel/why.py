"""Why a request went where it went, as its journal record keeps it: short, for people, and it decides nothing.

About 30 bytes for each offer that was considered, 12 for the rest; a request with a single offer has three bytes of it.
"""

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.frozen import JournalRecord


class Weighed(JournalRecord, frozen=True):
    """One offer as the choice saw it. `rank` counts from 1; 0: it was left out, and `left_out` says why."""

    offer_id: int
    rank: int
    left_out: str = ""
    score: int = 0  # the lower the better, in parts of 1000 of the best
    cost_nano: int = 0  # what the request was expected to cost us there
    first_token_ms: int = 0  # the median of late; 0: not measured
    held_permille: int = 0  # of the prompt, expected in its cache
    strain: int = 0  # parts of 1000 that its load and its cache added to the score


class Why(JournalRecord, frozen=True):
    """A choice among offers."""

    policy: str
    decided_by: str  # "key", "model" or "default": whose policy it is
    offers: tuple[Weighed, ...]  # in the order they would be tried, then those that were left out


class Tried(JournalRecord, frozen=True):
    """An attempt that failed before its offer had said anything."""

    upstream: str
    fault: str  # a kernel.faults.Fault


class Way(JournalRecord, frozen=True):
    """All that is kept of a request's way: the choice, if there was one, and who was asked in vain."""

    why: Why | None
    tried: tuple[Tried, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_why_from = msgspec.msgpack.Decoder(Why).decode
_way_from = msgspec.msgpack.Decoder(Way).decode


def bytes_from_why(why: Why) -> bytes:
    """At most `limits.WEIGHED_KEPT_MAX` offers, the best ones."""
    if len(why.offers) > limits.WEIGHED_KEPT_MAX:
        why = msgspec.structs.replace(why, offers=why.offers[: limits.WEIGHED_KEPT_MAX])
    return _encode(why)


def bytes_from_way(why: bytes, tried: tuple[Tried, ...]) -> bytes:
    """What the books keep; `why` as the journal has it."""
    return _encode((msgspec.Raw(why) if why else None, tried))


def way_from_bytes(kept: bytes) -> Way:
    """Raises msgspec.DecodeError when it is none."""
    return _way_from(kept)


def why_from_bytes(kept: bytes) -> Why:
    """Raises msgspec.DecodeError when it is none."""
    return _why_from(kept)


def reason(why: Why) -> str:
    """What put the first offer before the second, in one word: "only", "pinned", "cost", "cache", "speed", "load" or
    "order" (nothing that is on record; the catalog's order, health or weights)."""
    tried = [one for one in why.offers if one.rank]
    if len(tried) < 2:
        return "only"
    first, second = tried[:2]
    if why.policy == "pinned":
        return "pinned"
    found = {
        "cost": 100 * first.cost_nano < 98 * second.cost_nano,
        "speed": 0 < 100 * first.first_token_ms < 95 * second.first_token_ms,
        "cache": first.held_permille > second.held_permille,
        "load": first.strain < second.strain,
    }
    asked = ("speed", "cost") if why.policy == "fastest" else ("cost", "speed")
    if found["cost"] and found["cache"] and why.policy != "fastest":
        return "cache"  # which is why it is cheaper
    return next((one for one in (*asked, "cache", "load") if found[one]), "order")
