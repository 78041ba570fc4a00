"""Our own account of the prefix cache of an engine that tells nobody what it read from it.

The engine keeps the KV cache in blocks of so many tokens and finds a whole block again by all tokens up to its end,
the least recently used ones making room. This repeats that by counting: what it says is ours, not the engine's, and
errs to the low side (a block that is not full is never counted). Pure.
"""

from collections import OrderedDict
from collections.abc import Sequence


class Blocks:
    """Which blocks a cache of `capacity` blocks of `size` tokens holds. Any sequence of ints is a prompt."""

    def __init__(self, size: int, capacity: int) -> None:
        self._size = size
        self._capacity = capacity
        self._known: OrderedDict[int, None] = OrderedDict()

    def cached(self, tokens: Sequence[int]) -> int:
        """Tokens at the beginning that are in the cache. At least one token of a prompt is always computed."""
        found = 0
        for key in self._keys(tokens):
            if key not in self._known:
                break
            self._known.move_to_end(key)
            found += self._size
        return max(0, min(found, len(tokens) - 1))

    def add(self, tokens: Sequence[int]) -> None:
        """These tokens were computed in this order: their whole blocks can be found again."""
        for key in self._keys(tokens):
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def _keys(self, tokens: Sequence[int]) -> list[int]:
        keys: list[int] = []
        before = 0
        for start in range(0, len(tokens) - self._size + 1, self._size):
            before = hash((before, *tokens[start : start + self._size]))
            keys.append(before)
        return keys
