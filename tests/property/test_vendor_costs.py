"""What a vendor's answer costs us, against exact fractions: any tariff, any counts, any rate."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from steelyard.kernel.money import NANO_PER_UNIT, PICO_PER_UNIT
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.settled import Closed, Opened, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.rate import cost_of, exchange_of, rate

PER = (1, 1000, 10**6)
PRICE = Tariff(1, "m", "CNY", 0, tuple(TariffLine(meter, "0", 0, 1) for meter in (
    Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT,
)))  # fmt: skip
counts = st.integers(0, 2_000_000)
usages = st.builds(Usage, counts, counts, counts, cache_write=counts, reasoning=counts)
prices = st.tuples(st.integers(0, 10**9), st.sampled_from(PER))
tariffs = st.fixed_dictionaries(
    {Meter.INPUT: prices, Meter.CACHED_INPUT: prices, Meter.OUTPUT: prices},
    optional={Meter.CACHE_WRITE: prices, Meter.REASONING: prices},
)
worth = st.integers(1, 1000 * PICO_PER_UNIT)
LIKE = {Meter.CACHE_WRITE: Meter.INPUT, Meter.REASONING: Meter.OUTPUT}
COUNTED = ("input", "cached_input", "output", "cache_write", "reasoning")


def settlement(usage: Usage, heard: Usage | None, rate_id: int) -> Settlement:
    opened = Opened(b"r" * 16, 1, 0, 1, 1, 1, "m", "far", 1, 2, "CNY", 10**9, 1, 1, True, rate_id=rate_id)
    return Settlement(opened, Closed(b"r" * 16, 2, usage, "complete", 1, 1, heard=heard))


@given(usage=usages, heard=st.none() | usages, lines=tariffs, pico=st.none() | worth)
def test_cost_and_payable_are_the_exact_fractions(
    usage: Usage, heard: Usage | None, lines: dict[Meter, tuple[int, int]], pico: int | None
) -> None:
    """Python rounds a Fraction half-even, as the books do: each line once, and what is turned over once."""
    written = tuple(TariffLine(meter, str(price), price, per) for meter, (price, per) in lines.items())
    cost = Tariff(2, "far", "CNY" if pico is None else "USD", 0, written, model="far-model")
    exchange = None
    if pico is not None:
        exchange = Tariff(3, "USD", "CNY", 0, (TariffLine(Meter.MONEY, "", pico, NANO_PER_UNIT),))
    rated = rate(settlement(usage, heard, 0 if pico is None else 3), PRICE, cost, exchange)
    billed = usage if heard is None else heard
    payable = 0
    for name in COUNTED:
        price, per = lines.get(Meter(name)) or lines[LIKE[Meter(name)]]
        payable += round(Fraction(getattr(billed, name) * price, per * 1000))
    turned = payable if pico is None else round(Fraction(payable * pico, PICO_PER_UNIT))
    assert (rated.payable_nano, rated.payable_currency) == (payable, cost.currency)
    assert rated.vendor_cost_nano == rated.cost_nano == turned
    assert (rated.cpu_cost_nano, rated.energy_cost_nano, rated.charge_nano) == (0, 0, 0)
    assert sum(line.amount_nano for line in cost_of(billed, cost)) == payable
    if exchange is not None:
        assert sum(line.amount_nano for line in exchange_of(payable, exchange)) == turned
