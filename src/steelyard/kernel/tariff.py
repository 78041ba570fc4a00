"""Tariffs as records: dated price lines. catalog.tariffs says which version counts, rating what it comes to."""

from enum import IntEnum

from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Meter

ENGINE_METERS = frozenset({Meter.CPU, Meter.GPU, Meter.ENERGY})
"""What an engine's cost is made of: the time of CPU cores or of GPUs, and energy."""
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WORKDAY, DAY_OFF = "workday", "day off"
DAY_KINDS = (WORKDAY, DAY_OFF)
"""By a calendar: a weekend day that was made a working day is one, a public holiday is none."""


class TariffLine(Record, frozen=True, gc=False):
    """`pico` pico-units buy `per` of the meter's units; `text` is the price as the source wrote it."""

    meter: Meter
    text: str
    pico: int
    per: int


class Thinking(IntEnum):
    """What a request says of thinking. One that says nothing leaves it to the model, and no condition on it holds."""

    UNSAID = 0
    ON = 1
    OFF = 2


class Condition(Record, frozen=True, gc=False, omit_defaults=True):
    """When a variant counts: everything that is said must hold; what is left out always does.

    Clock (local wall time of `zone`), calendar and thinking are decided when a request is opened; the bands bound the
    tokens of the whole request (prompt: fresh, read and written; output: reasoning included) and are decided at rating.
    """

    zone: str = ""  # IANA
    days: tuple[str, ...] = ()  # of DAYS, or one of DAY_KINDS alone
    hours: tuple[tuple[int, int], ...] = ()  # minutes of the day, the end excluded; [late, early) goes over midnight
    calendar: str = ""  # ISO country of the `holidays` library
    not_on_holidays: bool = False
    thinking: bool | None = None
    input_over: int | None = None
    input_up_to: int | None = None
    output_over: int | None = None
    output_up_to: int | None = None

    @property
    def bands_input(self) -> bool:
        return self.input_over is not None or self.input_up_to is not None

    @property
    def bands_output(self) -> bool:
        return self.output_over is not None or self.output_up_to is not None


class Variant(Record, frozen=True, gc=False):
    """Lines that replace those of their tariff under a condition; `name` stands on receipts."""

    name: str
    when: Condition
    lines: tuple[TariffLine, ...]


class Tariff(Record, frozen=True, gc=False):
    """One dated version of what a model's customers pay (price book), of what an upstream costs us (cost book), or of
    what one unit of a currency is worth in another (rate book).

    `id` is the version that receipts name. `watts_milli` (cost books only) is the modelled power of one busy core or
    GPU. An engine's cost prices its time and energy, a vendor's the tokens of one `model`. A rate has one line, for
    `money`.
    """

    id: int
    subject: str  # the model's name (price book), the upstream's (cost book) or the currency that is bought (rate book)
    currency: str
    effective_from_ns: int
    lines: tuple[TariffLine, ...]
    source: str = ""
    watts_milli: int = 0
    tier: str = ""  # price books only: which requests it is for; empty: all without a price of their tier
    variants: tuple[Variant, ...] = ()  # the first that holds counts; meters it has no line for take `lines`
    marginal: bool = False  # bands price only the tokens inside them, not the whole request
    met: int = 0  # of one request: bit i says that variant i's conditions held when it was opened; 0 in the books
    model: str = ""  # cost books only: the upstream's name of the model it is for; empty: all of the upstream's

    @property
    def of_vendor(self) -> bool:
        """Whether a cost tariff prices tokens, as vendors do, and not the work of an engine of ours."""
        return any(line.meter not in ENGINE_METERS for line in self.lines)

    @property
    def owes_tokens(self) -> bool:
        """Whether every token costs us something: then an answer that broke off is owed as far as it came."""
        if self.variants:
            return self.of_vendor
        for line in self.lines:  # noqa: SIM110 - asked of each request
            if line.pico and line.meter not in ENGINE_METERS:
                return True
        return False

    @property
    def of_gpus(self) -> bool:
        """Whether a cost tariff prices the time of GPUs, and not that of CPU cores."""
        return any(line.meter is Meter.GPU for line in self.lines)
