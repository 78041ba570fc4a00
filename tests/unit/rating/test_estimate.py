"""Expected costs are what rating would come to, to the rounding of its lines, in whichever currency."""

import random
from fractions import Fraction

from tests.fakes.parties import COST, OFFER, PRICE

from steelyard.kernel.choice import Candidate, Load
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Condition, Tariff, TariffLine, Variant
from steelyard.rating.estimate import Estimator
from steelyard.rating.rate import VendorSheet
from steelyard.rating.sheet import COST_METERS, Sheet

RATE = Tariff(90, "USD", "CNY", 0, (TariffLine(M.MONEY, "7.25", 7_250_000_000_000, 10**9),))


def vendor(number: int, dice: random.Random) -> Tariff:
    meters = (M.INPUT, M.CACHED_INPUT, M.OUTPUT, M.REASONING, M.CACHE_WRITE)[: dice.randrange(3, 6)]
    lines = tuple(TariffLine(meter, "x", dice.randrange(10**9), dice.choice((1, 3, 1000, 10**6))) for meter in meters)
    return Tariff(number, "v", "USD", 0, lines, model="m")


def load(used: Usage) -> Load:
    return Load(used.prompt, used.output, [used.cached_input], [used.cpu_ns], [used.energy_uj])


def test_a_vendors_cost_is_estimated_as_it_is_rated() -> None:
    dice, estimator = random.Random(11), Estimator()
    for number in range(1, 200):
        tariff = vendor(number, dice)
        for rate in (None, RATE):
            used = Usage(*(dice.choice((0, dice.randrange(10**6))) for _ in range(3)))
            rated = VendorSheet(tariff, rate).amounts(used, 0)[0]
            slack = 3 * (Fraction(RATE.lines[0].pico, RATE.lines[0].per * 1000) if rate else 1) + 1
            assert abs(estimator.costs([Candidate(OFFER, tariff, rate)], load(used))[0] - rated) <= slack


def test_an_engines_cost_is_estimated_as_it_is_rated() -> None:
    used = Usage(10, 0, 5, cpu_ns=7 * 10**9, energy_uj=56 * 10**6)
    rated = sum(Sheet(COST, COST_METERS).amounts([used.cpu_ns, used.energy_uj]))
    assert abs(Estimator().costs([Candidate(OFFER, COST)], load(used))[0] - rated) <= 2


def test_a_band_counts_as_it_will_when_it_is_rated() -> None:
    dear = tuple(TariffLine(m, "x", 9_000_000, 1) for m in (M.INPUT, M.OUTPUT))
    base = tuple(TariffLine(m, "x", 1_000_000, 1) for m in (M.INPUT, M.OUTPUT))
    long = Variant("long", Condition(input_over=100), dear)
    tariff = Tariff(7, "v", "USD", 0, base, model="m", variants=(long,), met=1)
    for rate in (None, RATE):
        for prompt in (100, 101):
            rated = VendorSheet(tariff, rate).amounts(Usage(prompt, 0, 10), 1)[0]
            assert Estimator().costs([Candidate(OFFER, tariff, rate)], load(Usage(prompt, 0, 10))) == [rated]


def test_the_margin_is_the_lesser_of_what_is_expected_and_of_the_most() -> None:
    cost = Tariff(50, "v", "CNY", 0, tuple(TariffLine(m, "x", 5_000_000, 1) for m in (M.INPUT, M.OUTPUT)), model="m")
    one = [Candidate(OFFER, cost)]
    # the price is 2 in, 0.2 cached and 10 out; the cost 5 for each
    short, long = load(Usage(10, 0, 10)), load(Usage(100, 0, 10))
    assert Estimator().costs(one, short) == [100_000]
    assert Estimator().margins(one, [short], PRICE) == [20_000]
    assert Estimator().margins(one, [short, long], PRICE) == [300_000 - 550_000]
