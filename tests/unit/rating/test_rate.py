"""Rating: one line per meter, rounded once; nothing without a price; bounds that hold."""

import msgspec
import pytest

from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.settled import Closed, End, Opened, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.bounds import affordable_tokens, worst_case_nano
from steelyard.rating.rate import charge_of, cost_of, rate

HOUR_NS = 3_600_000_000_000
PRICE = Tariff(
    id=1,
    subject="m",
    currency="CNY",
    effective_from_ns=0,
    lines=(
        TariffLine(Meter.INPUT, "0.50", 500_000_000_000, 1_000_000),
        TariffLine(Meter.CACHED_INPUT, "0.05", 50_000_000_000, 1_000_000),
        TariffLine(Meter.OUTPUT, "1.50", 1_500_000_000_000, 1_000_000),
    ),
)
COST = Tariff(
    id=2,
    subject="local",
    currency="CNY",
    effective_from_ns=0,
    lines=(
        TariffLine(Meter.CPU, "0.10", 100_000_000_000, HOUR_NS),
        TariffLine(Meter.ENERGY, "0.60", 600_000_000_000, HOUR_NS),
    ),
    watts_milli=8000,
)


def settlement(usage: Usage, *, price_id: int = 1, cost_id: int = 2, currency: str = "CNY") -> Settlement:
    opened = Opened(
        request_id=bytes(16),
        opened_ns=0,
        slot=0,
        tenant_id=1,
        project_id=1,
        key_id=1,
        model="m",
        upstream="local",
        price_id=price_id,
        cost_id=cost_id,
        currency=currency,
        hold_nano=10**9,
        max_tokens=100,
        sequences=1,
        stream=True,
    )
    return Settlement(opened, Closed(bytes(16), 1, usage, End.COMPLETE, 1, 1))


def tariff(*lines: tuple[Meter, int, int]) -> Tariff:
    return msgspec.structs.replace(PRICE, lines=tuple(TariffLine(m, str(pico), pico, per) for m, pico, per in lines))


def test_a_typical_question_has_the_charge_and_cost_of_the_price_file() -> None:
    usage = Usage(input=16, output=10, cpu_ns=300_000_000, energy_uj=2_400_000)
    charged, spent = charge_of(usage, PRICE), cost_of(usage, COST)
    assert [(line.meter, line.amount_nano) for line in charged] == [(Meter.INPUT, 8000), (Meter.OUTPUT, 15000)]
    assert [(line.meter, line.amount_nano) for line in spent] == [(Meter.CPU, 8333), (Meter.ENERGY, 400)]
    rated = rate(settlement(usage), PRICE, COST)
    assert (rated.charge_nano, rated.cpu_cost_nano, rated.energy_cost_nano) == (23_000, 8_333, 400)
    assert rated.cost_nano == 8_733


def test_a_line_says_what_was_counted_and_at_what_price() -> None:
    (line,) = charge_of(Usage(cached_input=3), PRICE)
    assert (line.quantity, line.text, line.per, line.amount_nano) == (3, "0.05", 1_000_000, 150)


def test_ties_go_to_the_even_nano() -> None:
    halves = tariff((Meter.INPUT, 500, 1), (Meter.CACHED_INPUT, 0, 1), (Meter.OUTPUT, 0, 1))
    assert [charge_of(Usage(input=n), halves)[0].amount_nano for n in (1, 2, 3, 5)] == [0, 1, 2, 2]


def test_an_explicit_zero_price_makes_a_line_of_zero() -> None:
    free = tariff((Meter.INPUT, 0, 1), (Meter.CACHED_INPUT, 0, 1), (Meter.OUTPUT, 0, 1))
    assert [line.amount_nano for line in charge_of(Usage(input=5, output=7), free)] == [0, 0]


def test_nothing_used_makes_no_line() -> None:
    assert charge_of(Usage(), PRICE) == ()
    assert cost_of(Usage(), COST) == ()


@pytest.mark.parametrize("meter", [Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT])
def test_a_count_without_a_price_is_refused(meter: Meter) -> None:
    holed = msgspec.structs.replace(PRICE, lines=tuple(line for line in PRICE.lines if line.meter != meter))
    with pytest.raises(BooksError, match=meter.value):
        charge_of(Usage(input=1, cached_input=1, output=1), holed)
    with pytest.raises(BooksError, match="no price"):
        worst_case_nano(holed, 1, 1, 1)


@pytest.mark.parametrize("meter", [Meter.CPU, Meter.ENERGY])
def test_a_cost_without_a_rate_is_refused(meter: Meter) -> None:
    holed = msgspec.structs.replace(COST, lines=tuple(line for line in COST.lines if line.meter != meter))
    with pytest.raises(BooksError, match=meter.value):
        cost_of(Usage(cpu_ns=1, energy_uj=1), holed)


def test_a_meter_the_book_does_not_know_is_refused() -> None:
    with pytest.raises(BooksError, match="does not know"):
        charge_of(Usage(input=1), msgspec.structs.replace(PRICE, lines=(*PRICE.lines, COST.lines[0])))


def test_a_meter_priced_twice_is_refused() -> None:
    with pytest.raises(BooksError, match="twice"):
        charge_of(Usage(input=1), msgspec.structs.replace(PRICE, lines=PRICE.lines + PRICE.lines))


@pytest.mark.parametrize("line", [TariffLine(Meter.INPUT, "-1", -1, 1), TariffLine(Meter.INPUT, "1", 1, 0)])
def test_a_broken_line_is_refused(line: TariffLine) -> None:
    with pytest.raises(BooksError, match="broken"):
        charge_of(Usage(input=1), msgspec.structs.replace(PRICE, lines=(line,)))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(BooksError, match="negative"):
        charge_of(Usage(output=-1), PRICE)
    with pytest.raises(BooksError, match="negative"):
        worst_case_nano(PRICE, -1, 1, 1)
    with pytest.raises(BooksError, match="negative"):
        worst_case_nano(PRICE, 1, -1, 1)
    with pytest.raises(BooksError, match="sequence"):
        affordable_tokens(PRICE, 1, 0, 1)


def test_an_amount_no_account_can_hold_is_refused() -> None:
    with pytest.raises(BooksError, match="more than an account"):
        charge_of(Usage(output=INT64_MAX), tariff((Meter.OUTPUT, 10**12, 1)))


@pytest.mark.parametrize("wrong", [{"price_id": 9}, {"cost_id": 9}, {"currency": "USD"}])
def test_only_the_tariffs_of_the_opening_rate_a_request(wrong: dict[str, object]) -> None:
    with pytest.raises(BooksError):
        rate(settlement(Usage(input=1), **wrong), PRICE, COST)  # type: ignore[arg-type]


def test_worst_case_takes_the_dearer_input_price_once_per_sequence() -> None:
    assert worst_case_nano(PRICE, 100, 10, 3) == 3 * (100 * 500 + 10 * 1500)
    dear_cache = tariff((Meter.INPUT, 10**6, 1), (Meter.CACHED_INPUT, 3 * 10**6, 1), (Meter.OUTPUT, 10**6, 1))
    assert worst_case_nano(dear_cache, 100, 0, 1) == 300_000


def test_worst_case_covers_two_input_lines_that_are_both_rounded_up() -> None:
    """One token each at 1.5 nano is 3 exactly, but the lines round to 2 + 2."""
    price = tariff((Meter.INPUT, 1500, 1), (Meter.CACHED_INPUT, 1500, 1), (Meter.OUTPUT, 0, 1))
    charged = sum(line.amount_nano for line in charge_of(Usage(input=1, cached_input=1), price))
    assert charged == 4 == worst_case_nano(price, 2, 0, 1)


def test_affordable_tokens_at_the_edges() -> None:
    assert affordable_tokens(PRICE, 100, 1, 49_999) == -1
    assert affordable_tokens(PRICE, 100, 1, 50_000) == 0
    assert affordable_tokens(PRICE, 100, 1, 51_499) == 0
    assert affordable_tokens(PRICE, 100, 1, 51_500) == 1
    assert affordable_tokens(PRICE, 100, 2, 2 * 51_500 + 2_999) == 1
    free = tariff((Meter.INPUT, 10**6, 1), (Meter.CACHED_INPUT, 0, 1), (Meter.OUTPUT, 0, 1))
    assert affordable_tokens(free, 1, 1, 1000) == INT64_MAX


def test_what_has_no_price_of_its_own_costs_what_it_is_a_part_of() -> None:
    used = Usage(10, 0, 20, cache_write=3, reasoning=4)
    lines = {line.meter: line for line in charge_of(used, PRICE)}
    assert set(lines) == {Meter.INPUT, Meter.CACHE_WRITE, Meter.OUTPUT, Meter.REASONING}
    for own, like in ((Meter.CACHE_WRITE, Meter.INPUT), (Meter.REASONING, Meter.OUTPUT)):
        assert (lines[own].text, lines[own].per) == (lines[like].text, lines[like].per)
        assert lines[own].amount_nano * lines[like].quantity == lines[like].amount_nano * lines[own].quantity
    dearer = msgspec.structs.replace(
        PRICE,
        lines=(*PRICE.lines, *tariff((Meter.CACHE_WRITE, 9 * 10**9, 1), (Meter.REASONING, 7 * 10**9, 1)).lines),
    )
    assert [
        line.amount_nano for line in charge_of(used, dearer) if line.meter in (Meter.CACHE_WRITE, Meter.REASONING)
    ] == [
        27 * 10**6,
        28 * 10**6,
    ]
    assert rate(settlement(used), dearer, COST).charge_nano == sum(line.amount_nano for line in charge_of(used, dearer))


def test_the_worst_case_takes_the_dearest_of_every_meter() -> None:
    plain = tariff((Meter.INPUT, 10**6, 1), (Meter.CACHED_INPUT, 10**5, 1), (Meter.OUTPUT, 10**7, 1))
    assert worst_case_nano(plain, 3, 2, 1) == 3 * 10**3 + 2 * 10**4
    more = tariff((Meter.CACHE_WRITE, 5 * 10**6, 1), (Meter.REASONING, 3 * 10**7, 1)).lines
    dearer = msgspec.structs.replace(plain, lines=(*plain.lines, *more))
    assert worst_case_nano(dearer, 3, 2, 1) == 3 * 5 * 10**3 + 2 * 3 * 10**4
    assert affordable_tokens(dearer, 3, 1, 15_000 + 60_000) == 2
    cheap = tariff((Meter.CACHE_WRITE, 1, 1), (Meter.REASONING, 1, 1)).lines
    assert worst_case_nano(msgspec.structs.replace(plain, lines=(*plain.lines, *cheap)), 3, 2, 1) >= 23_000


def test_gpu_time_is_priced_by_the_gpu_hour() -> None:
    lines = (TariffLine(Meter.GPU, "12.50", 12_500_000_000_000, HOUR_NS), COST.lines[1])
    gpus = msgspec.structs.replace(COST, lines=lines)
    rated = rate(settlement(Usage(10, 0, 10, HOUR_NS // 2, 0)), PRICE, gpus)
    assert rated.cpu_cost_nano == 6_250_000_000
    (line,) = cost_of(Usage(10, 0, 10, HOUR_NS // 2, 0), gpus)
    assert (line.meter, line.quantity, line.text) == (Meter.GPU, HOUR_NS // 2, "12.50")
