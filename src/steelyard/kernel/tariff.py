"""Tariffs as records: dated price lines. catalog.tariffs says which version counts, rating what it comes to."""

from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Meter


class TariffLine(Record, frozen=True):
    """`pico` pico-units buy `per` of the meter's units; `text` is the price as the source wrote it."""

    meter: Meter
    text: str
    pico: int
    per: int


class Tariff(Record, frozen=True):
    """One dated version of what a model's customers pay (price book) or of what an upstream costs us (cost book).

    `id` is the version that receipts name. `watts_milli` (cost books only) is the modelled power of one busy core.
    """

    id: int
    subject: str  # the model's name (price book) or the upstream's (cost book)
    currency: str
    effective_from_ns: int
    lines: tuple[TariffLine, ...]
    source: str = ""
    watts_milli: int = 0
    tier: str = ""  # price books only: which requests it is for; empty: all without a price of their tier
