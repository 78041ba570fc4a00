"""What a request is expected to cost us and to earn, before it is called: for choosing, never for charging.

Integers, rounded down: two offers are compared, nothing is booked. A tariff is made ready once and kept by its version
and the conditions that hold (versions are never edited). Knows no offer's past; what is expected comes in as counts.
"""

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate, Expected
from steelyard.kernel.money import PICO_PER_NANO
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.rate import VendorSheet
from steelyard.rating.sheet import COST_METERS, PRICE_METERS
from steelyard.rating.varied import Varied

_LIKE = {Meter.CACHE_WRITE: Meter.INPUT, Meter.REASONING: Meter.OUTPUT, Meter.CACHED_INPUT: Meter.INPUT}
_Key = tuple[int, int, int]


class _Plain(NamedTuple):
    """A tariff without bands: nano per unit of each meter, over one divisor."""

    fresh: int
    cached: int
    written: int
    output: int
    reasoning: int
    cpu: int
    energy: int
    divisor: int

    def nano(self, usage: Usage) -> int:
        tokens = usage.input * self.fresh + usage.cached_input * self.cached + usage.output * self.output
        if usage.cache_write or usage.reasoning:
            tokens += usage.cache_write * self.written + usage.reasoning * self.reasoning
        return (tokens + usage.cpu_ns * self.cpu + usage.energy_uj * self.energy) // self.divisor


class _Banded(NamedTuple):
    """One with variants: rated as it will be."""

    sheet: Varied | VendorSheet
    met: int

    def nano(self, usage: Usage) -> int:
        if isinstance(self.sheet, VendorSheet):
            return self.sheet.amounts(usage, self.met)[0]
        return sum(self.sheet.amounts(usage, self.met))


class Estimator:
    """One per worker; keeps what it has made of tariffs, within a bound."""

    def __init__(self) -> None:
        self._ready: dict[_Key, _Plain | _Banded] = {}

    def weigh(
        self, candidates: Sequence[Candidate], expected: Sequence[Expected], price: Tariff | None
    ) -> list[Candidate]:
        """The candidates with what each would cost as expected. With a `price`, with the margin as well: the lesser of
        the request as expected and of the most that is sensible."""
        return [self._weighed(one, what, price) for one, what in zip(candidates, expected, strict=True)]

    def _weighed(self, one: Candidate, what: Expected, price: Tariff | None) -> Candidate:
        cost_nano, margin_nano = self.nano(one.cost, what.usage, one.rate), None
        if price is not None:
            at_most = self.nano(price, what.most) - self.nano(one.cost, what.most, one.rate)
            margin_nano = min(self.nano(price, what.usage) - cost_nano, at_most)
        return msgspec.structs.replace(
            one, cost_nano=cost_nano, margin_nano=margin_nano, energy_uj=what.usage.energy_uj or None
        )

    def nano(self, tariff: Tariff, usage: Usage, rate: Tariff | None = None) -> int:
        """What this usage comes to by the tariff, in the rate's other currency if there is one."""
        key = (tariff.id, tariff.met, rate.id if rate is not None else 0)
        ready = self._ready.get(key)
        if ready is None:
            if len(self._ready) >= limits.TARIFFS_READY_MAX:
                self._ready.clear()
            ready = self._ready[key] = _made_ready(tariff, rate)
        return ready.nano(usage)


def _made_ready(tariff: Tariff, rate: Tariff | None) -> _Plain | _Banded:
    if tariff.variants:
        sheet = VendorSheet(tariff, rate) if rate is not None else Varied(tariff, _meters(tariff))
        return _Banded(sheet, tariff.met)
    lines = {line.meter: line for line in tariff.lines}
    turned, into = (rate.lines[0].pico, rate.lines[0].per * PICO_PER_NANO) if rate is not None else (1, 1)

    def fraction(meter: Meter) -> tuple[int, int]:
        line: TariffLine | None = lines.get(meter) or lines.get(_LIKE.get(meter, meter))
        return (line.pico * turned, line.per * PICO_PER_NANO * into) if line is not None else (0, 1)

    meters = (Meter.INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE, Meter.OUTPUT, Meter.REASONING, *COST_METERS)
    found = [fraction(meter) for meter in meters]
    divisor = lcm(*(below for _, below in found))
    fresh, cached, written, output, reasoning, cpu, energy = (above * (divisor // below) for above, below in found)
    return _Plain(fresh, cached, written, output, reasoning, cpu, energy, divisor)


def _meters(tariff: Tariff) -> Sequence[Meter]:
    return PRICE_METERS if tariff.of_vendor else COST_METERS
