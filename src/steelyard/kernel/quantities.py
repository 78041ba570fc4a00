"""What one request used, as disjoint counts.

Owns the buckets and their projections into the dialects' overlapping ones. Every projection re-adds to the same total.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import assert_never

import msgspec


class Meter(StrEnum):
    """What a tariff line prices. Token meters belong to price books and vendors' costs, `cpu`, `gpu` and `energy` to
    engines' costs, `money` to rates."""

    INPUT = "input"  # prompt tokens computed afresh
    CACHED_INPUT = "cached_input"  # prompt tokens read from a cache
    CACHE_WRITE = "cache_write"  # prompt tokens computed afresh and written to a vendor's cache
    OUTPUT = "output"  # tokens generated, reasoning apart
    REASONING = "reasoning"  # tokens generated that were reasoning
    REUSED_INPUT = "reused_input"  # prompt tokens of an answer that was given before: nothing was computed
    REUSED_OUTPUT = "reused_output"  # ... and its own tokens, reasoning included
    CALL = "call"  # a request of which something was delivered
    CHARACTER = "character"  # of a text that is spoken
    SECOND = "second"  # milliseconds of sound or video
    IMAGE = "image"
    PAGE = "page"
    GB_DAY = "gb_day"  # megabyte-hours of storage
    CPU = "cpu"  # nanoseconds of engine CPU time
    GPU = "gpu"  # nanoseconds of engine GPU time: the same count where a cost tariff prices GPUs
    ENERGY = "energy"  # microjoules
    MONEY = "money"  # nano-units of another currency


INPUT_METERS = (Meter.REUSED_INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE, Meter.INPUT)
"""What a prompt is counted by, in the order of a prompt: what is read from a cache stands before what is not."""
OUTPUT_METERS = (Meter.REUSED_OUTPUT, Meter.REASONING, Meter.OUTPUT)
"""What an answer is counted by, in its order."""


class Source(StrEnum):
    """Where an amount of energy comes from: the label of every joule that is shown."""

    NONE = "none"  # there is none: a vendor's, or nothing was used
    MODELLED = "modelled"  # busy time × the watts of the cost tariff
    MEASURED = "measured"  # by an instrument
    PARTLY = "partly"  # a sum of both


def source_of(energy_uj: int, measured_uj: int) -> Source:
    """The label of a request's energy, or of a sum."""
    if not energy_uj:
        return Source.NONE
    if not measured_uj:
        return Source.MODELLED
    return Source.MEASURED if measured_uj >= energy_uj else Source.PARTLY


WORK_METERS = (Meter.CHARACTER, Meter.SECOND, Meter.IMAGE, Meter.PAGE, Meter.GB_DAY)
"""What is counted of work that is not text."""


class Work(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counts of work that is not text, each in the unit of its meter."""

    character: int = 0
    second: int = 0
    image: int = 0
    page: int = 0
    gb_day: int = 0


class Usage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Disjoint counts of one request: no token stands in two buckets.

    `cpu_ns` is its share of the engine's busy time: of CPU cores, or of GPUs where the cost tariff prices these (an
    estimate). Energy in µJ; settled.Closed says how much of it was measured.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    cpu_ns: int = 0
    energy_uj: int = 0
    cache_write: int = 0
    reasoning: int = 0
    reused_input: int = 0  # of an answer out of the answer cache, which has nothing in the other buckets
    reused_output: int = 0

    @property
    def prompt(self) -> int:
        """Prompt tokens as the OpenAI dialect counts them: those read from a cache and written to one included."""
        return self.input + self.cached_input + self.cache_write + self.reused_input

    @property
    def generated(self) -> int:
        """All output tokens, reasoning included: what a cap bounds."""
        return self.output + self.reasoning + self.reused_output

    @property
    def total(self) -> int:
        return self.prompt + self.generated

    @property
    def from_cache(self) -> int:
        """Prompt tokens that nobody computed: what dialects call cached."""
        return self.cached_input + self.reused_input

    @property
    def projected(self) -> tuple[int, int, int]:
        """`prompt`, `generated` and `from_cache` in one look, for whoever tells all of them with every answer."""
        from_cache = self.cached_input + self.reused_input
        generated = self.output + self.reasoning + self.reused_output
        return self.input + self.cache_write + from_cache, generated, from_cache

    @property
    def is_reused(self) -> bool:
        """Whether nothing was computed for it, and no vendor bills it."""
        return self.reused_output > 0 or self.reused_input > 0

    @property
    def call(self) -> int:
        """What a fee per request counts: 1 when something was delivered."""
        return 1 if self.total else 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.cpu_ns + other.cpu_ns,
            self.energy_uj + other.energy_uj,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.reused_input + other.reused_input,
            self.reused_output + other.reused_output,
        )

    def of(self, meter: Meter) -> int:
        """The count a tariff line with this meter prices."""
        match meter:
            case Meter.INPUT:
                return self.input
            case Meter.CACHED_INPUT:
                return self.cached_input
            case Meter.CACHE_WRITE:
                return self.cache_write
            case Meter.OUTPUT:
                return self.output
            case Meter.REASONING:
                return self.reasoning
            case Meter.REUSED_INPUT | Meter.REUSED_OUTPUT:
                return self.reused_input if meter is Meter.REUSED_INPUT else self.reused_output
            case Meter.CALL:
                return self.call
            case Meter.CPU | Meter.GPU:
                return self.cpu_ns
            case Meter.ENERGY:
                return self.energy_uj
            case Meter.CHARACTER | Meter.SECOND | Meter.IMAGE | Meter.PAGE | Meter.GB_DAY | Meter.MONEY:
                return 0  # see Work; a rate prices what a vendor's tariff has come to
            case _:
                assert_never(meter)


_FIELDS = {Meter.CPU: "cpu_ns", Meter.GPU: "cpu_ns", Meter.ENERGY: "energy_uj"}


def counter(meters: Sequence[Meter]) -> Callable[[Usage | Work], tuple[int, ...]]:
    """Reads the counts of two or more meters at once, five times as fast as `Usage.of` one by one."""
    return attrgetter(*(_FIELDS.get(meter, meter.value) for meter in meters))
