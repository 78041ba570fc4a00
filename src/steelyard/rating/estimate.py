"""What a request is expected to cost us and to earn, before it is called: for choosing, never for charging.

Integers, rounded down: two offers are compared, nothing is booked. A tariff is made ready once and kept by its version
and the conditions that hold (versions are never edited). Knows no offer's past; what is expected comes in as counts.
"""

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate, Load
from steelyard.kernel.money import PICO_PER_NANO
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.rate import VendorSheet, has_call
from steelyard.rating.sheet import CALL_METERS, COST_METERS, GPU_METERS, cost_meters
from steelyard.rating.varied import Varied

_Key = tuple[int, int, int]


class _Plain(NamedTuple):
    """A tariff without variants: nano per unit of each meter, over one divisor."""

    fresh: int
    cached: int
    output: int
    cpu: int
    energy: int
    divisor: int


class _Varied(NamedTuple):
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
        self._ready: dict[_Key, _Plain | _Varied] = {}

    def costs(self, candidates: Sequence[Candidate], load: Load) -> list[int]:
        """What the request would cost at each, in nano of the customer's currency."""
        return self.amounts([(one.cost, one.rate) for one in candidates], load)

    def margins(self, candidates: Sequence[Candidate], loads: Sequence[Load], price: Tariff) -> list[int]:
        """What is left of the charge at each: the least over these loads."""
        prices = [(price, None)] * len(candidates)
        least: list[int] = []
        for load in loads:
            charges, costs = self.amounts(prices, load), self.costs(candidates, load)
            left = [charge - cost for charge, cost in zip(charges, costs, strict=True)]
            least = [min(pair) for pair in zip(least, left, strict=True)] if least else left
        return least

    def amounts(self, tariffs: Sequence[tuple[Tariff, Tariff | None]], load: Load) -> list[int]:
        """What the load comes to by each of these tariffs, turned over at its rate if it has one."""
        known, found = self._ready, []
        prompt, output, cached_counts, cpu_counts, energy_counts = load
        for place, (tariff, rate) in enumerate(tariffs):
            ready = known.get((tariff.id, tariff.met, rate.id if rate is not None else 0))
            if ready is None:
                ready = self._make_ready(tariff, rate)
            if isinstance(ready, _Plain):
                fresh, hit, written, cpu, energy, divisor = ready
                cached = cached_counts[place]
                amount = (prompt - cached) * fresh + cached * hit + output * written
                if cpu or energy:
                    amount += cpu_counts[place] * cpu + energy_counts[place] * energy
                found.append(amount // divisor)
            else:
                found.append(ready.nano(load.usage(place)))
        return found

    def nano(self, tariff: Tariff, usage: Usage) -> int:
        """What this usage comes to."""
        load = Load(usage.prompt, usage.generated, [usage.cached_input], [usage.cpu_ns], [usage.energy_uj])
        return self.amounts([(tariff, None)], load)[0]

    def _make_ready(self, tariff: Tariff, rate: Tariff | None) -> _Plain | _Varied:
        if len(self._ready) >= limits.TARIFFS_READY_MAX:
            self._ready.clear()
        ready = _made_ready(tariff, rate)
        self._ready[tariff.id, tariff.met, rate.id if rate is not None else 0] = ready
        return ready


def _made_ready(tariff: Tariff, rate: Tariff | None) -> _Plain | _Varied:
    if tariff.variants or has_call(tariff):
        sheet = VendorSheet(tariff, rate) if rate is not None else Varied(tariff, _meters(tariff))
        return _Varied(sheet, tariff.met)
    lines = {line.meter: line for line in tariff.lines}
    turned, into = (rate.lines[0].pico, rate.lines[0].per * PICO_PER_NANO) if rate is not None else (1, 1)

    def fraction(meter: Meter) -> tuple[int, int]:
        line: TariffLine | None = lines.get(meter) or (lines.get(Meter.INPUT) if meter is Meter.CACHED_INPUT else None)
        return (line.pico * turned, line.per * PICO_PER_NANO * into) if line is not None else (0, 1)

    work = GPU_METERS if tariff.of_gpus else COST_METERS
    found = [fraction(meter) for meter in (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT, *work)]
    divisor = lcm(*(below for _, below in found))
    fresh, cached, output, cpu, energy = (above * (divisor // below) for above, below in found)
    return _Plain(fresh, cached, output, cpu, energy, divisor)


def _meters(tariff: Tariff) -> Sequence[Meter]:
    return CALL_METERS if has_call(tariff) else cost_meters(tariff)
