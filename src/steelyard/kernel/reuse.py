"""What a request has to do with the answer cache, as a record between routing, the cache and whoever answers."""

from steelyard.kernel.frozen import Record

ANSWER_CACHE = "answer-cache"
"""The upstream that answers which were given before come from: it has no offers and costs nothing."""


class Reuse(Record, frozen=True):
    """`key` is what the same request has as well; empty: its answer is not kept, and none that was given is used."""

    key: bytes = b""
    said: str = "bypass"  # for the customer: miss, refresh, bypass, or hit and how old the answer is
    events: bytes = b""  # the answer that was given before
