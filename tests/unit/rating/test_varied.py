"""Variants at given prices: whole-request bands, marginal bands, what a receipt says, and what is set aside."""

import msgspec
import pytest

from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel.errors import BooksError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.tariff import Tariff
from steelyard.rating.bounds import affordable_tokens, worst_case_nano
from steelyard.rating.rate import charge_of, cost_of
from steelyard.rating.varied import standing

HEAD = """
[[price]]
model = "m"
currency = "CNY"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "0.8"
cached_input = "0.2"
output = "2"
source = "the vendor's page"
"""
BANDS = """
[[price.when]]
name = "≤ 256k"
input_over = 128000
input = "2.4"
output = "20"
[[price.when]]
name = "≤ 128k"
input_over = 32000
input = "1.2"
output = "16"
[[price.when]]
name = "long answer"
output_over = 200
output = "8"
"""
PEAK = """
[[price.when]]
name = "peak"
zone = "Asia/Shanghai"
hours = ["09:00-12:00"]
input = "1.6"
cached_input = "0.4"
output = "4"
"""


def price(text: str, met: int) -> Tariff:
    return standing(parse_price_file(HEAD + text).tariffs[0].tariff(1), met)


def told(usage: Usage, tariff: Tariff) -> list[tuple[str, str, int, str, int]]:
    return [(line.meter, line.variant, line.quantity, line.text, line.amount_nano) for line in charge_of(usage, tariff)]


@pytest.mark.parametrize(
    ("prompt", "generated", "variant", "input_text", "output_text"),
    [
        (32_000, 200, "", "0.8", "2"),
        (32_000, 201, "long answer", "0.8", "8"),
        (32_001, 201, "≤ 128k", "1.2", "16"),
        (128_000, 200, "≤ 128k", "1.2", "16"),
        (128_001, 1, "≤ 256k", "2.4", "20"),
    ],
)
def test_a_band_prices_the_whole_request_from_its_first_token_on(
    prompt: int, generated: int, variant: str, input_text: str, output_text: str
) -> None:
    tariff = price(BANDS, 0b111)
    lines = {line.meter: line for line in charge_of(Usage(prompt, 0, generated), tariff)}
    assert lines[Meter.OUTPUT].variant == variant
    assert (lines[Meter.INPUT].text, lines[Meter.OUTPUT].text) == (input_text, output_text)
    assert lines[Meter.INPUT].variant == (variant if variant.startswith("≤") else "")


def test_cached_and_written_tokens_belong_to_the_prompt_and_reasoning_to_the_answer() -> None:
    tariff = price(BANDS, 0b111)
    usage = Usage(1, 31_999, 0, cache_write=1, reasoning=7)
    assert told(usage, tariff) == [
        ("input", "≤ 128k", 1, "1.2", 1_200),
        ("cached_input", "", 31_999, "0.2", 6_399_800),
        ("cache_write", "≤ 128k", 1, "1.2", 1_200),
        ("reasoning", "≤ 128k", 7, "16", 112_000),
    ]


def test_what_did_not_hold_at_opening_does_not_count_and_the_first_in_the_file_goes_first() -> None:
    assert told(Usage(40_000), price(BANDS, 0b100)) == [("input", "", 40_000, "0.8", 32_000_000)]
    assert told(Usage(10), price(PEAK + BANDS, 0b1111)) == [("input", "peak", 10, "1.6", 16_000)]
    assert told(Usage(200_000), price(PEAK + BANDS, 0b1110))[0][1] == "≤ 256k"


def test_a_marginal_band_prices_the_tokens_inside_it() -> None:
    """Forty tokens, cached before written before fresh; the band begins behind the thirtieth."""
    text = "marginal = true\n[[price.when]]\nname = 'more'\ninput_over = 30\ninput = '8'\ncached_input = '1'\n"
    text += "[[price.when]]\nname = 'long answer'\noutput_over = 3\noutput = '9'\n"
    tariff = price(text, 0b11)
    assert told(Usage(8, 25, 2, cache_write=7, reasoning=4), tariff) == [
        ("input", "more", 8, "8", 64_000),
        ("cached_input", "", 25, "0.2", 5_000),
        ("output", "long answer", 2, "9", 18_000),
        ("cache_write", "", 5, "0.8", 4_000),
        ("cache_write", "more", 2, "8", 16_000),
        ("reasoning", "", 3, "2", 6_000),
        ("reasoning", "long answer", 1, "9", 9_000),
    ]
    with pytest.raises(BooksError, match="negative"):
        charge_of(Usage(-1, 5), tariff)


def test_the_moment_is_known_when_money_is_set_aside() -> None:
    """In the peak the peak's prices, outside of it the others: a hold is no higher than it must be."""
    plain = price("", 0)
    cheap, dear = price(PEAK, 0), price(PEAK, 1)
    assert worst_case_nano(cheap, 1000, 500, 1) == worst_case_nano(plain, 1000, 500, 1) == 800_000 + 1_000_000
    assert worst_case_nano(dear, 1000, 500, 1) == 1_600_000 + 2_000_000
    assert affordable_tokens(dear, 1000, 1, 3_600_000) == 500


def test_a_band_out_of_reach_is_not_set_aside_for() -> None:
    tariff = price(BANDS, 0b111)
    assert worst_case_nano(tariff, 32_000, 200, 1) == 32_000 * 800 + 200 * 2000
    assert worst_case_nano(tariff, 32_000, 201, 1) == 32_000 * 800 + 201 * 8000
    assert worst_case_nano(tariff, 32_001, 200, 1) == 32_001 * 1200 + 200 * 16_000
    assert worst_case_nano(tariff, 32_001, 100, 2) == 64_002 * 1200 + 200 * 16_000


def test_a_dearer_band_of_short_prompts_is_set_aside_for_no_longer_than_it_goes() -> None:
    text = "[[price.when]]\nname = 'short'\ninput_up_to = 100\ninput = '50'\n"
    assert worst_case_nano(price(text, 1), 1_000, 0, 1) == 100 * 50_000
    assert worst_case_nano(price(text, 1), 10_000, 0, 1) == 10_000 * 800


def test_tokens_that_no_band_lets_us_pay_for_are_not_forwarded() -> None:
    text = "[[price.when]]\nname = 'long answer'\noutput_over = 200\noutput = '8'\n"
    tariff = price(text, 1)
    assert affordable_tokens(tariff, 0, 1, 200 * 2000) == 200
    assert affordable_tokens(tariff, 0, 1, 201 * 8000 - 1) == 200, "at 201 all of them cost more"
    assert affordable_tokens(tariff, 0, 1, 201 * 8000) == 201
    free = msgspec.structs.replace(tariff, met=0, lines=(*price("", 0).lines[:2], line_of("0", "output")))
    assert affordable_tokens(free, 0, 1, 0) == INT64_MAX


def line_of(text: str, field: str) -> object:
    (draft,) = parse_price_file(HEAD.replace('output = "2"', f'{field} = "{text}"')).tariffs
    return draft.lines[2]


def test_an_engines_energy_may_cost_less_at_night() -> None:
    text = """
        [[cost]]
        upstream = "engine"
        currency = "CNY"
        effective_from = 2026-01-01T00:00:00Z
        cpu_hour = "0.10"
        watts_per_busy_core = "8"
        kwh = "0.60"
        source = "the contract"
          [[cost.when]]
          name = "night"
          zone = "Europe/Berlin"
          hours = ["22:00-06:00"]
          kwh = "0.30"
    """
    cost = parse_price_file(text).tariffs[0].tariff(2)
    usage = Usage(cpu_ns=3_600_000_000_000, energy_uj=3_600_000_000_000)
    day, night = cost_of(usage, cost), cost_of(usage, standing(cost, 1))
    assert [(line.meter, line.variant, line.amount_nano) for line in day + night] == [
        ("cpu", "", 100_000_000),
        ("energy", "", 600_000_000),
        ("cpu", "", 100_000_000),
        ("energy", "night", 300_000_000),
    ]


def test_a_fee_per_request_is_charged_once_when_something_was_delivered() -> None:
    (draft,) = parse_price_file(HEAD + 'call = "0.01"\n').tariffs
    tariff = draft.tariff(1)
    assert told(Usage(10, 0, 5), tariff) == [
        ("input", "", 10, "0.8", 8_000),
        ("output", "", 5, "2", 10_000),
        ("call", "", 1, "0.01", 10_000_000),
    ]
    assert told(Usage(), tariff) == []
    assert worst_case_nano(tariff, 10, 5, 1) == 10_018_000
    assert worst_case_nano(tariff, 10, 5, 3) == 10_054_000, "one request, however many sequences"
    assert affordable_tokens(tariff, 10, 1, 10_018_000) == 5
    assert affordable_tokens(tariff, 10, 1, 10_007_999) == -1


def test_a_variant_may_have_another_fee() -> None:
    text = 'call = "0.01"\n[[price.when]]\nname = "thinking"\nthinking = true\ncall = "0.02"\n'
    assert told(Usage(10), price(text, 1))[1] == ("call", "thinking", 1, "0.02", 20_000_000)
    assert worst_case_nano(price(text, 1), 10, 0, 1) == 20_008_000
    assert worst_case_nano(price(text, 0), 10, 0, 1) == 10_008_000
