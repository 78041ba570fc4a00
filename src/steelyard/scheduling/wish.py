"""What wants to start at an engine, and what an engine can take, as records."""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.frozen import Record
from steelyard.kernel.prefix import Prompt


class Lane(IntEnum):
    """Who waits for the answer."""

    INTERACTIVE = 0  # somebody does
    BATCH = 1  # nobody does before its deadline: it fills what is idle


class Wish(Record, frozen=True):
    """One sequence that wants to start."""

    tenant_id: int = 0
    prompt: Prompt = Prompt()
    tokens: int = 1  # of context that are promised to it: its prompt and the most it may answer
    within_s: int = 0  # of what nobody waits for: how soon it must have ended all the same; 0: somebody waits
    unbroken: bool = False  # once it has a token it cannot rest: what follows would not be the same


class Capacity(Record, frozen=True):
    """What one engine can take.

    `leader_first`: sequences that run together share what one of them has computed, but only once it has. Where each
    slot has a cache of its own (`slots`), nothing is shared and a sequence goes where its beginning is. `rests`: what
    nobody waits for can be stopped between two steps, and goes on later from what it has said.
    """

    sequences: int  # at the same time
    tokens: int = 0  # of context promised to all that run; 0: as many as they like
    batch_sequences: int = 0  # of them, that nobody waits for; 0: three quarters
    leader_first: bool = True
    slots: bool = False
    rests: bool = False

    @property
    def batch(self) -> int:
        return self.batch_sequences or max(1, self.sequences * 3 // 4)

    @property
    def beside(self) -> int:
        """How many of a batch decode beside one who is waited for."""
        return min(self.batch, self.sequences // limits.BATCH_BESIDE_PARTS)


class Turn(NamedTuple):
    """Whose sequence it is, on its way to an engine; `slot`: which of its slots it is meant for, -1: any. `begins` is
    called when the engine begins with it and when it goes on after a rest, `stops` when it rests or has
    ended."""

    tenant_id: int = 0
    within_s: int = 0  # as a wish has it
    slot: int = -1
    begins: Callable[[], object] = bool
    stops: Callable[[], object] = bool

    @property
    def header(self) -> bytes:
        """As it is told to an engine that keeps a line of its own: a number for the tenant, never his name."""
        return b"%d %d" % (self.tenant_id, self.within_s)


TURN_HEADER = b"x-steelyard-turn"


def turn_from(header: bytes) -> Turn:
    """What `Turn.header` told; nobody's turn where that cannot be read."""
    parts = header.split()
    if len(parts) != 2 or not all(part.isdigit() and len(part) <= 18 for part in parts):
        return Turn()
    return Turn(int(parts[0]), int(parts[1]))


class Start(NamedTuple):
    """The wish of this number may start now; `slot` is where, or -1 where the engine has no slots of its own."""

    number: int
    slot: int


class QueueFull(Exception):
    """Nothing more may wait here; it may be asked again after so many seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"nothing more may wait here for {retry_after_s} s")
        self.retry_after_s = retry_after_s
