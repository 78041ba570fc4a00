"""A tariff made ready to rate: what each meter of its book costs per unit, as a fraction of nanos.

Pure integers. Each line is rounded once, half-even, at nano. A tariff with a foreign, doubled, negative or unbounded
line is refused, and what has no price is never rated at nothing. Knows no variants: see rating.varied.
"""

from collections.abc import Sequence
from math import gcd

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX, PICO_PER_NANO, divide_half_even
from steelyard.kernel.quantities import Meter
from steelyard.kernel.settled import AmountLine
from steelyard.kernel.tariff import Tariff, TariffLine

PRICE_METERS = (
    *(Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT, Meter.CACHE_WRITE, Meter.REASONING),
    *(Meter.REUSED_INPUT, Meter.REUSED_OUTPUT),
)
"""What a price book charges customers for: what most requests have first."""
CALL_METERS = (*PRICE_METERS, Meter.CALL)
"""The same of a tariff that has a fee per request: there is none where no line says so."""
_PRICED_LIKE = {
    Meter.CACHE_WRITE: Meter.INPUT,
    Meter.REASONING: Meter.OUTPUT,
    Meter.REUSED_INPUT: Meter.INPUT,
    Meter.REUSED_OUTPUT: Meter.OUTPUT,
}
"""What has no line of its own has the price of what it is a part of elsewhere; it stays a line of its own meter."""
COST_METERS = (Meter.CPU, Meter.ENERGY)
"""What a cost book says an engine costs us; a vendor bills the meters of a price book."""
GPU_METERS = (Meter.GPU, Meter.ENERGY)
"""The same of an engine whose time is that of GPUs."""
RATE_METERS = (Meter.MONEY,)


def cost_meters(cost: Tariff) -> Sequence[Meter]:
    """What a cost tariff prices."""
    return PRICE_METERS if cost.of_vendor else GPU_METERS if cost.of_gpus else COST_METERS


class Sheet:
    """A tariff made ready to rate many requests: its lines in the order of its book's meters."""

    __slots__ = ("_lines", "_meters", "_tariff")

    def __init__(self, tariff: Tariff, meters: Sequence[Meter]) -> None:
        self._tariff = tariff
        self._meters = meters
        self._lines: list[tuple[int, int]] = []  # nano per unit of each meter as a fraction

    def amounts(self, quantities: Sequence[int]) -> list[int]:
        """What each quantity comes to, in nano; `quantities` are in the order of the meters, of all or the first."""
        amounts = [0] * len(quantities)
        if not self._lines and not self._prepare(quantities):
            return amounts
        lines = self._lines
        for place, quantity in enumerate(quantities):
            if quantity:  # most meters count nothing
                numerator, denominator = lines[place]
                amount = quantity * numerator
                if denominator != 1:
                    amount = divide_half_even(amount, denominator)
                if quantity < 0 or amount > INT64_MAX:
                    raise self._refusal(self._meters[place], quantity)
                amounts[place] = amount
        return amounts

    def lines(self, quantities: Sequence[int]) -> tuple[AmountLine, ...]:
        """One line per meter with a count, for people to read."""
        lines = []
        for quantity, meter, amount in zip(quantities, self._meters, self.amounts(quantities), strict=True):
            if quantity:
                line = line_of(self._tariff, meter, self._meters)
                lines.append(AmountLine(meter, quantity, line.text, line.per, amount))
        return tuple(lines)

    def _prepare(self, quantities: Sequence[int]) -> bool:
        """Whether there is anything to rate: what nobody uses needs no price."""
        if any(quantities):
            self._lines = [reduced(price_of(self._tariff, meter, self._meters)) for meter in self._meters]
        return bool(self._lines)

    def _refusal(self, meter: Meter, quantity: int) -> BooksError:
        refuse_negative(quantity)
        line = line_of(self._tariff, meter, self._meters)
        return BooksError(f"{quantity} {meter} at {line.text} per {line.per} is more than an account can hold")


def line_of(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine:
    """The tariff's one line for the meter, its own or the one it is priced like; without one nothing is rated."""
    found = price_of(tariff, meter, meters)
    if found is None:
        raise BooksError(
            f"tariff {tariff.id} of {tariff.subject} has no price for {meter}: nothing is rated at nothing"
        )
    return found


def price_of(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine | None:
    found = find_line(tariff, meter, meters)
    like = _PRICED_LIKE.get(meter)
    return find_line(tariff, like, meters) if found is None and like is not None else found


def find_line(tariff: Tariff, meter: Meter, meters: Sequence[Meter]) -> TariffLine | None:
    """A tariff with a foreign, doubled, negative or unbounded line is refused."""
    found = None
    for line in tariff.lines:
        if line.meter not in meters:
            raise BooksError(
                f"tariff {tariff.id} of {tariff.subject} prices {line.meter!r}, which its book does not know"
            )
        if line.pico < 0 or line.per < 1:
            raise BooksError(f"tariff {tariff.id} of {tariff.subject} has a broken line for {line.meter}")
        if line.meter == meter:
            if found is not None:
                raise BooksError(f"tariff {tariff.id} of {tariff.subject} prices {meter} twice")
            found = line
    return found


def reduced(line: TariffLine | None) -> tuple[int, int]:
    """Nano-units of money per unit of the meter; in lowest terms the numbers of a request stay small."""
    if line is None:
        return INT64_MAX + 1, 1  # whoever uses what has no price is refused like one whom no account can pay for
    divisor = line.per * PICO_PER_NANO
    common = gcd(line.pico, divisor)
    return line.pico // common, divisor // common


def refuse_negative(count: int) -> None:
    if count < 0:
        raise BooksError(f"a count cannot be negative: {count}")
