"""Every shipped book is in order, says where each number is from, and prices named cases as the vendors' lists do."""

import re
from datetime import datetime

import pytest
from msgspec.structs import replace

from steelyard.catalog.conditions import met
from steelyard.catalog.price_file import COST, parse_price_file
from steelyard.catalog.price_text import price_text
from steelyard.catalog.standing import Standing, standing_at
from steelyard.catalog.tariffs import complete, in_force, price_needs
from steelyard.catalog.vendor_books import VendorBook, vendor_book, vendor_names
from steelyard.kernel.errors import CallerError
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Tariff, Thinking
from steelyard.rating.rate import PRICE_METERS, cost_of

CHINESE = {"deepseek", "ark", "dashscope", "zhipu", "stepfun", "moonshot", "minimax"}
OTHERS = {"zai", "openai", "anthropic", "gemini"}
BEIJING = "+08:00"


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


NOW_NS = ns("2026-11-27T12:00:00+00:00")


def of_model(name: str, model: str) -> tuple[Tariff, ...]:
    """Its versions, as if they had been loaded in the order of the file."""
    costs = (cost.tariff(number) for number, cost in enumerate(vendor_book(name).costs, 1))
    return tuple(one for one in costs if one.model == model)


def rated(name: str, model: str, moment: str, usage: Usage, thinking: Thinking = Thinking.UNSAID) -> tuple[str, str]:
    """What a request that was opened at the moment comes to, and the variant that priced its answer."""
    version = in_force(of_model(name, model), ns(moment + BEIJING))
    assert version is not None
    lines = cost_of(usage, replace(version, met=met(version, ns(moment + BEIJING), thinking)))
    return text_from_nano(sum(line.amount_nano for line in lines)), lines[-1].variant


def at(name: str, model: str, moment: str) -> Standing:
    (found,) = standing_at(COST, of_model(name, model), ns(moment))
    return found


def prices(name: str, model: str, moment: str) -> tuple[str, str, str]:
    """What counts by the clock: fresh, cached and generated tokens, per million."""
    found = at(name, model, moment)
    own = found.rows[-1].prices | found.now.prices
    return own["input"], own["cached_input"], own["output"]


def test_the_vendors_that_were_asked_for_have_a_book() -> None:
    assert set(vendor_names()) >= CHINESE | OTHERS
    assert {vendor_book(name).vendor.currency for name in CHINESE} == {"CNY"}
    with pytest.raises(CallerError) as refused:
        vendor_book("nobody")
    assert refused.value.status == 404 and "deepseek" in refused.value.message


@pytest.fixture(params=vendor_names())
def book(request: pytest.FixtureRequest) -> VendorBook:
    return vendor_book(request.param)


def test_every_entry_says_its_source_and_when_it_was_read(book: VendorBook) -> None:
    for cost in book.costs:
        assert re.search(r"\w.*, read 20\d\d-\d\d-\d\d$", cost.source), (cost.model, cost.source)
        assert cost.subject == book.vendor.name and cost.currency == book.vendor.currency
        assert ns("2024-01-01T00:00:00+00:00") < cost.effective_from_ns


def test_every_model_has_a_whole_cost_now(book: VendorBook) -> None:
    for model in book.models:
        versions = of_model(book.vendor.name, model.upstream_model)
        in_force = [one for one in versions if one.effective_from_ns <= NOW_NS]
        assert in_force, model.upstream_model
        for version in versions:
            for capability in model.capabilities:
                assert complete(version, price_needs(capability))
            for variant in version.variants:
                assert {line.meter for line in variant.lines} == {line.meter for line in version.lines}


def test_no_count_of_a_vendor_is_rated_at_nothing_unless_its_list_says_so(book: VendorBook) -> None:
    """Whatever buckets a vendor counts in, each has a price of its own or that of what it is a part of."""
    everything = Usage(7000, 7000, 7000, cache_write=7000, reasoning=7000)
    for number, cost in enumerate(book.costs, 1):
        lines = cost_of(everything, cost.tariff(number))
        assert [line.meter for line in lines] == list(PRICE_METERS[:5]), cost.model
        for line in lines:
            assert (line.amount_nano == 0) == (line.text == "0"), (cost.model, line)


def test_a_book_reads_back_from_what_is_written_of_it(book: VendorBook) -> None:
    assert parse_price_file(price_text(book.costs, book.vendor.title)).tariffs == book.costs


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-26T09:00:00", ("2", "0.04", "8")),  # a Thursday, at the minute the peak begins
        ("2026-11-26T08:59:59", ("1", "0.02", "4")),
        ("2026-11-26T12:00:00", ("1", "0.02", "4")),  # the end is outside
        ("2026-11-26T14:00:00", ("2", "0.04", "8")),
        ("2026-11-26T17:59:59", ("2", "0.04", "8")),
        ("2026-11-26T18:00:00", ("1", "0.02", "4")),
        ("2026-11-28T10:00:00", ("1", "0.02", "4")),  # Saturday
        ("2026-10-01T10:00:00", ("1", "0.02", "4")),  # National Day, a Thursday
        ("2026-10-07T10:00:00", ("1", "0.02", "4")),  # the last of its holidays, a Wednesday
        ("2026-10-08T10:00:00", ("2", "0.04", "8")),  # the first working day after it
        ("2026-10-10T10:00:00", ("1", "0.02", "4")),  # a Saturday on which China works: the rule names weekdays
        ("2026-09-20T10:00:00", ("1", "0.02", "4")),  # a Sunday on which China works
    ],
)
def test_deepseek_flash_by_the_vendors_own_windows(moment: str, expected: tuple[str, str, str]) -> None:
    assert prices("deepseek", "deepseek-flash", moment + BEIJING) == expected


@pytest.mark.parametrize(
    ("moment", "cny", "usd"),
    [
        ("2026-08-16T23:59:59", ("1", "0.02", "2"), ("0.14", "0.0028", "0.28")),  # flat
        ("2026-08-17T09:00:00", ("3", "0.10", "9"), ("0.44", "0.014", "1.32")),
        ("2026-08-17T13:00:00", ("1.5", "0.05", "4.5"), ("0.22", "0.007", "0.66")),
        ("2026-08-22T10:00:00", ("3", "0.10", "9"), ("0.44", "0.014", "1.32")),  # the one weekend day of peak prices
        ("2026-08-23T10:00:00", ("1.5", "0.05", "4.5"), ("0.22", "0.007", "0.66")),
        ("2026-09-11T10:00:00", ("2", "0.04", "8"), ("0.30", "0.006", "1.20")),  # cut, as V4.1
    ],
)
def test_the_history_of_deepseek_v4_flash(moment: str, cny: tuple[str, str, str], usd: tuple[str, str, str]) -> None:
    assert prices("deepseek", "deepseek-v4-flash", moment + BEIJING) == cny
    assert prices("deepseek-usd", "deepseek-v4-flash", moment + BEIJING) == usd


@pytest.mark.parametrize(
    ("model", "moment", "expected"),
    [
        ("deepseek-chat", "2025-06-01T16:29:59+00:00", ("0.27", "0.07", "1.10")),
        ("deepseek-chat", "2025-06-01T16:30:00+00:00", ("0.135", "0.035", "0.55")),
        ("deepseek-chat", "2025-06-02T00:29:59+00:00", ("0.135", "0.035", "0.55")),
        ("deepseek-chat", "2025-06-02T00:30:00+00:00", ("0.27", "0.07", "1.10")),
        ("deepseek-reasoner", "2025-06-07T20:00:00+00:00", ("0.135", "0.035", "0.55")),  # Saturday night, too
        ("deepseek-reasoner", "2025-02-20T20:00:00+00:00", ("0.55", "0.14", "2.19")),  # before it was announced
    ],
)
def test_the_nights_of_2025(model: str, moment: str, expected: tuple[str, str, str]) -> None:
    assert prices("deepseek-usd", model, moment) == expected


def test_named_prices_that_other_lists_have_wrong() -> None:
    moment = "2026-11-27T10:00:00+08:00"
    assert prices("zhipu", "glm-4-plus", moment) == ("5", "2.5", "5")
    assert prices("ark", "doubao-pro-32k", moment)[0] == "0.8"
    for model in ("glm-4.7-flash", "glm-4.5-flash", "glm-4-flash-250414"):
        assert prices("zhipu", model, moment) == ("0", "0", "0")
    assert prices("stepfun", "step-5-preview", moment) == ("7", "0.35", "20")
    kimi = at("moonshot-ai", "kimi-k3", moment).now.prices
    assert (kimi["input"], kimi["cache_write"], kimi["output"]) == ("3", "3", "15")


def test_a_promotion_ends_when_it_said() -> None:
    assert prices("zhipu", "glm-5.3-flash", "2026-09-09T23:59:59+08:00") == ("0.4", "0.115", "1.4")
    assert prices("zhipu", "glm-5.3-flash", "2026-09-10T00:00:00+08:00") == ("0.8", "0.23", "2.8")
    assert prices("gemini", "gemini-4-argon", "2026-12-01T00:00:00+00:00")[0] == "4"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-26T10:00:00", ("10.04", "peak")),
        ("2026-11-26T12:30:00", ("5.02", "")),
        ("2026-11-28T10:00:00", ("5.02", "")),  # Saturday
        ("2026-10-01T10:00:00", ("5.02", "")),  # National Day
        ("2026-10-10T10:00:00", ("5.02", "")),  # a Saturday on which China works
    ],
)
def test_deepseek_flash_is_rated_by_the_moment_of_opening(moment: str, expected: tuple[str, str]) -> None:
    assert rated("deepseek", "deepseek-flash", moment, Usage(10**6, 10**6, 10**6)) == expected


def test_bands_and_thinking_price_the_whole_request() -> None:
    now = "2026-11-26T10:00:00"
    answer = Usage(100_000, 0, 10_000, reasoning=10_000)
    assert rated("dashscope", "qwen-plus", now, answer, Thinking.ON) == ("0.24", "thinking, ≤ 128k")
    assert rated("dashscope", "qwen-plus", now, answer, Thinking.OFF) == ("0.12", "≤ 128k")
    assert rated("dashscope", "qwen-plus", now, replace(answer, input=200_000), Thinking.ON)[0] == "0.96"
    seed = "doubao-seed-2-0-pro-260215"
    assert rated("ark", seed, now, Usage(32_000, 0, 1000)) == ("0.1184", "≤ 32k")
    assert rated("ark", seed, now, Usage(32_001, 0, 1000)) == ("0.1776048", "≤ 128k")
    assert rated("ark", seed, now, Usage(200_000, 0, 1000)) == ("1.968", "")


def test_flat_lists_are_rated_to_the_nano() -> None:
    now = "2026-11-26T10:00:00"
    assert rated("zhipu", "glm-4-plus", now, Usage(10**6)) == ("5.00", "")
    assert rated("ark", "doubao-pro-32k", now, Usage(1000)) == ("0.0008", "")
    assert rated("zhipu", "glm-4.7-flash", now, Usage(10**6, 10**6, 10**6)) == ("0.00", "")
