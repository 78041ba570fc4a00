"""What an engine has computed of prompts, and what is being computed: where followers wait for a leader.

A guess by the chains that were sent there, bounded like the caches themselves. Pure.
"""

from steelyard.kernel import limits
from steelyard.kernel.prefix import Prompt, reached


class Shared:
    """One cache for all sequences of an engine. A beginning is there when a sequence that has it has said a token."""

    def __init__(self, blocks_max: int = limits.PREFIX_BLOCKS_PER_OFFER_MAX) -> None:
        self._young_max = max(1, blocks_max // 2)
        self._young: dict[int, None] = {}
        self._old: dict[int, None] = {}  # what was young before; goes when young has become half the cache
        self._coming: dict[int, int] = {}  # block → how many leaders compute it
        self.leaders = 0

    def gain(self, prompt: Prompt) -> int:
        """How much of the prompt a leader is about to compute that is not there yet, in units of its length."""
        if not self._coming:
            return 0
        chain = prompt.chain
        coming = reached(chain, self._coming)
        return prompt.reach(coming) - prompt.reach(reached(chain, self._young, self._old)) if coming else 0

    def lead(self, prompt: Prompt) -> bool:
        """It starts. Whether it is the first with some part of its prompt; then `done` or `lost` must follow."""
        chain = prompt.chain
        there = reached(chain, self._young, self._old)
        self.keep(chain[:there])
        if there == len(chain):
            return False
        for block in chain:  # all of it: what is there may go meanwhile
            self._coming[block] = self._coming.get(block, 0) + 1
        self.leaders += 1
        return True

    def done(self, prompt: Prompt) -> None:
        """A leader has said its first token."""
        self.lost(prompt)
        self.keep(prompt.chain)

    def lost(self, prompt: Prompt) -> None:
        """A leader has ended before that: the next one that waits computes it."""
        self.leaders -= 1
        for block in prompt.chain:
            left = self._coming[block] - 1
            if left:
                self._coming[block] = left
            else:
                del self._coming[block]

    def keep(self, chain: tuple[int, ...]) -> None:
        """These blocks were used now."""
        self._young.update(dict.fromkeys(chain))
        if len(self._young) > self._young_max:
            self._old, self._young = self._young, {}


class PerSlot:
    """A cache for each slot, which holds the beginning of what ran there last."""

    def __init__(self, slots: int) -> None:
        self._held: dict[int, frozenset[int]] = dict.fromkeys(range(slots), frozenset())  # longest unused first
        self._idle = dict.fromkeys(range(slots))

    def take(self, prompt: Prompt) -> int:
        """The idle slot that holds most of this prompt; where none holds any, the one that was used longest ago.

        A slot whose own conversation would be lost for a short beginning is spared while another one is unused.
        """
        best, most = -1, 0
        for slot, held in self._held.items():
            if slot in self._idle and (blocks := reached(prompt.chain, held)) > most:
                best, most = slot, blocks
        if not most or most * limits.SLOT_LIKENESS_PARTS < len(prompt.chain):
            best = next(slot for slot in self._held if slot in self._idle)
        del self._idle[best], self._held[best]
        self._held[best] = frozenset(prompt.chain)
        return best

    def free(self, slot: int) -> None:
        """What ran there has ended; what it held stays until another one comes."""
        self._idle[slot] = None
