"""Variants in price files: what is read is what counts, and every complaint names the table and the field."""

import pytest
from tests.unit.catalog.price_texts import COST, PRICE, complaint

from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel import limits
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import Condition, TariffLine, Variant

PEAK = """
  [[price.when]]
  name = "peak"
  zone = "Asia/Shanghai"
  days = ["mon", "tue", "wed", "thu", "fri"]
  hours = ["09:00-12:00", "14:00-18:00"]
  calendar = "CN"
  not_on_holidays = true
  input = "2"
  output = "8"
"""
LONG = """
  [[price.when]]
  name = "≤ 128k, thinking"
  thinking = true
  input_over = 32000
  input_up_to = 128_000
  output_over = 0
  output_up_to = 16000
  input = "3"
"""
NIGHT = """
  [[cost.when]]
  name = "night"
  zone = "Europe/Berlin"
  hours = ["22:00-06:00"]
  kwh = "0.30"
"""


def test_variants_keep_the_order_of_the_file() -> None:
    (draft,) = parse_price_file(PRICE + PEAK + LONG).tariffs
    assert draft.variants == (
        Variant(
            "peak",
            Condition(
                "Asia/Shanghai",
                ("mon", "tue", "wed", "thu", "fri"),
                ((9 * 60, 12 * 60), (14 * 60, 18 * 60)),
                calendar="CN",
                not_on_holidays=True,
            ),
            (
                TariffLine(Meter.INPUT, "2", 2 * 10**12, 10**6),
                TariffLine(Meter.OUTPUT, "8", 8 * 10**12, 10**6),
            ),
        ),
        Variant(
            "≤ 128k, thinking",
            Condition(thinking=True, input_over=32_000, input_up_to=128_000, output_over=0, output_up_to=16_000),
            (TariffLine(Meter.INPUT, "3", 3 * 10**12, 10**6),),
        ),
    )
    assert not draft.marginal and [line.text for line in draft.lines] == ["0.50", "0.05", "1.50"]
    assert draft.tariff(7).variants == draft.variants


def test_an_engine_costs_less_at_night() -> None:
    (draft,) = parse_price_file(COST + NIGHT).tariffs
    (night,) = draft.variants
    assert night.when == Condition("Europe/Berlin", hours=((22 * 60, 6 * 60),))
    assert night.lines == (TariffLine(Meter.ENERGY, "0.30", 3 * 10**11, 3_600_000_000_000),)


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ('name = "peak"', "", "name", "is missing"),
        ('name = "peak"', 'name = "  "', "name", "not empty"),
        ('name = "peak"', f'name = "{"x" * (limits.NAME_CHARACTERS_MAX + 1)}"', "name", "at most 64"),
        ('zone = "Asia/Shanghai"', "", "zone", "is missing"),
        ('zone = "Asia/Shanghai"', 'zone = "Beijing"', "zone", "IANA"),
        ('zone = "Asia/Shanghai"', 'zone = "../x"', "zone", "IANA"),
        ('"mon", "tue"', '"mon", "Tuesday"', "days", "sat, sun"),
        ('"mon", "tue"', '"mon", "mon"', "days", "twice"),
        ('["mon", "tue", "wed", "thu", "fri"]', "[]", "days", "a list of mon"),
        ('["mon", "tue", "wed", "thu", "fri"]', '"weekdays"', "days", '"workday" or "day off"'),
        ('"09:00-12:00"', '"9-12"', "hours", "is no window"),
        ('"09:00-12:00"', '"09:00-24:30"', "hours", "is no window"),
        ('"09:00-12:00"', '"09:00-09:00"', "hours", "is empty"),
        ('["09:00-12:00", "14:00-18:00"]', '"09:00-12:00"', "hours", "a list"),
        ('calendar = "CN"', "", "calendar", "is missing"),
        ('calendar = "CN"', 'calendar = "XX"', "calendar", "two letters"),
        ('calendar = "CN"', 'calendar = "CHN"', "calendar", "two letters"),
        ("not_on_holidays = true", "", "calendar", "is not used"),
        ("not_on_holidays = true", 'not_on_holidays = "yes"', "not_on_holidays", "true or false"),
        ('input = "2"', 'inputs = "2"', "inputs", "is not known"),
        ('input = "2"', 'input = "0.0000001"', "input", "more decimals"),
    ],
)
def test_a_complaint_names_entry_table_and_field(old: str, new: str, field: str, says: str) -> None:
    assert old in PEAK
    message = complaint(PRICE + LONG + PEAK.replace(old, new))
    assert message.startswith("[[price]] 1 (qwen), [[price.when]] 2"), message
    assert f"field '{field}': " in message and says in message, message


@pytest.mark.parametrize(
    ("table", "field", "says"),
    [
        ('name = "x"\nthinking = true\ncall = "1"', "call", "priced here only"),
        ('name = "x"\nthinking = true', "name", "without a price"),
        ('name = "x"\ninput = "1"', "name", "no condition"),
        ('name = "x"\nzone = "UTC"\nthinking = true\ninput = "1"', "zone", "is not used"),
        ('name = "x"\nthinking = "on"\ninput = "1"', "thinking", "true or false"),
        ('name = "x"\ninput_over = -1\ninput = "1"', "input_over", "whole number"),
        ('name = "x"\ninput_over = 1.5\ninput = "1"', "input_over", "whole number"),
        ('name = "x"\ninput_over = true\ninput = "1"', "input_over", "whole number"),
        ('name = "x"\noutput_up_to = 0\ninput = "1"', "output_up_to", "whole number"),
        ('name = "x"\ninput_over = 32000\ninput_up_to = 32000\ninput = "1"', "input_up_to", "more than 'input_over'"),
    ],
)
def test_a_condition_that_cannot_hold_or_says_nothing_is_refused(table: str, field: str, says: str) -> None:
    message = complaint(f"{PRICE}[[price.when]]\n{table}\n")
    assert f"field '{field}': " in message and says in message, message


def test_names_differ_and_there_are_not_too_many() -> None:
    assert "is that of another variant" in complaint(PRICE + PEAK + PEAK)
    many = "".join(LONG.replace("≤ 128k", str(number)) for number in range(limits.VARIANTS_MAX + 1))
    assert "more than 32 times" in complaint(PRICE + many)
    assert "double brackets" in complaint(PRICE + PEAK.replace("[[price.when]]", "[price.when]"))
    assert "(night), field 'watts_per_busy_core': is not known" in complaint(COST + NIGHT + 'watts_per_busy_core = "4"')


@pytest.mark.parametrize(
    ("table", "field", "says"),
    [
        ("input_over = 10\noutput_over = 10\ninput = '1'", "output_over", "two variants"),
        ("input_over = 10\noutput = '1'", "output", "marginal band of the input"),
        ("output_over = 10\ncached_input = '1'", "cached_input", "marginal band of the output"),
    ],
)
def test_a_marginal_band_prices_what_it_counts(table: str, field: str, says: str) -> None:
    marginal = PRICE + "marginal = true\n[[price.when]]\nname = 'x'\n" + table
    message = complaint(marginal)
    assert f"field '{field}': " in message or f"field '{field}' " in message
    assert says in message


def test_marginal_is_said_where_there_are_bands() -> None:
    (draft,) = parse_price_file(PRICE + "marginal = true\n[[price.when]]\nname='x'\ninput_over=10\ninput='1'").tariffs
    assert draft.marginal
    assert "needs a [[price.when]] with a band" in complaint(PRICE + "marginal = true\n" + PEAK)
    assert "true or false" in complaint(PRICE + "marginal = 1\n" + PEAK)
