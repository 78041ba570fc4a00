"""A prompt as a chain of hashes, each of a block of its bytes and of all before it; and who remembers such chains.

Two prompts that begin alike have chains that begin alike. Knows neither what a prompt is made of nor whose cache is
meant: routing guesses with it where a conversation's beginning is held, scheduling what need not be computed again.
"""

from bisect import bisect_right
from collections.abc import Container, Mapping, Sequence
from itertools import pairwise

from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.frozen import Record

FINE = 256  # bytes of a block at the beginning, about 64 tokens: where an engine runs on a CPU, that is worth it
_KIB = 1024
_EDGES = (
    *range(0, 4 * _KIB, FINE),
    *range(4 * _KIB, 32 * _KIB, 2 * _KIB),
    *range(32 * _KIB, limits.PREFIX_BYTES_MAX + 1, 4 * _KIB),
)
REACH = tuple(edge // FINE for edge in _EDGES[1:])
"""Where each block of `chain_of` ends, in units of FINE bytes."""


class Prompt(Record, frozen=True):
    """What is known of a prompt: its blocks, and what it has in common with others beside them."""

    chain: tuple[int, ...] = ()
    ends: Sequence[int] = ()  # where each block ends, in units of length; empty: each is one unit long
    length: int = 0  # in units, with what comes after the last whole block
    session: int = 0  # the customer's word for what belongs together; 0: none
    home: int = 0  # the same in every worker for prompts that begin alike; 0: none

    @property
    def size(self) -> int:
        return self.length or len(self.chain) or 1

    def reach(self, blocks: int) -> int:
        """The length of so many blocks at its beginning."""
        return self.ends[blocks - 1] if blocks and self.ends else blocks


def chain_of(name: str, text: bytes) -> tuple[int, ...]:
    """The chain of a text that is asked of the model of this name, in about 45 µs for 100 KB.

    The hashes are Python's own, salted by the process: nobody can make two prompts collide on purpose, and no two
    processes have the same. What ends a list or a text does not count: the next request goes on there.
    """
    edges = _EDGES[: bisect_right(_EDGES, len(text) - 1)]
    chain: list[int] = []
    at = hash(name)
    for start, end in pairwise(edges):
        at = hash((at, text[start:end]))
        chain.append(at)
    return tuple(chain)


def text_of(params: Mapping[str, Raw]) -> bytes:
    """What a chain is made of: the canonical form that upstreams are asked in, tools first, as templates put them."""
    turns = bytes(params.get("messages") or params.get("prompt") or b"")
    return bytes(params["tools"]) + turns if "tools" in params else turns


def prompt_from(name: str, text: bytes) -> Prompt:
    """The prompt with nothing but its text, its length in units of FINE bytes."""
    return Prompt(chain_of(name, text), REACH, -(-(len(text) - 1) // FINE))


def reached(chain: Sequence[int], young: Container[int], old: Container[int] = ()) -> int:
    """How many blocks at the beginning of the chain are known to one of two. Who has one has had all before it."""
    if not chain or (chain[0] not in young and chain[0] not in old):
        return 0
    low, high = 1, len(chain)
    while low < high:
        middle = (low + high + 1) // 2
        if chain[middle - 1] in young or chain[middle - 1] in old:
            low = middle
        else:
            high = middle - 1
    return low
