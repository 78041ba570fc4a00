"""Price files: what is read is exact, and every complaint says which entry, which field, and what to do."""

import re
from pathlib import Path

import pytest
from tests.unit.catalog.price_texts import COST, PRICE, complaint

from steelyard.catalog.demo import demo_price_text, demo_tariff_for
from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel import limits
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.rating.rate import charge_of, cost_of
from steelyard.rating.sheet import PRICE_METERS


def test_a_price_is_kept_as_written_and_in_pico() -> None:
    (draft,) = parse_price_file(PRICE).tariffs
    assert (draft.book, draft.subject, draft.currency, draft.source) == ("price", "qwen", "CNY", "board 2026-02")
    assert draft.effective_from_ns == 1_772_294_400 * 10**9  # 2026-02-28T16:00:00Z
    assert draft.lines == (
        TariffLine(Meter.INPUT, "0.50", 500_000_000_000, 1_000_000),
        TariffLine(Meter.CACHED_INPUT, "0.05", 50_000_000_000, 1_000_000),
        TariffLine(Meter.OUTPUT, "1.50", 1_500_000_000_000, 1_000_000),
    )


def test_a_cost_keeps_its_hours_and_kilowatt_hours() -> None:
    (draft,) = parse_price_file(COST).tariffs
    assert (draft.book, draft.subject, draft.watts_milli) == ("cost", "local", 7500)
    assert draft.lines == (
        TariffLine(Meter.CPU, "0.10", 100_000_000_000, 3_600_000_000_000),
        TariffLine(Meter.ENERGY, "0.60", 600_000_000_000, 3_600_000_000_000),
    )


@pytest.mark.parametrize(("per", "units"), [("1M tokens", 10**6), ("1K tokens", 10**3), ("1 token", 1)])
def test_prices_may_be_written_per_million_thousand_or_one(per: str, units: int) -> None:
    (draft,) = parse_price_file(PRICE.replace("1M tokens", per)).tariffs
    assert {line.per for line in draft.lines} == {units}


def test_what_is_free_is_written_as_zero() -> None:
    (draft,) = parse_price_file(PRICE.replace('"0.05"', '"0"')).tariffs
    assert draft.lines[1] == TariffLine(Meter.CACHED_INPUT, "0", 0, 1_000_000)


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ('input = "0.50"', "input = 0.50", "input", "quotes"),
        ('input = "0.50"', "input = 1", "input", "quotes"),
        ('input = "0.50"', 'input = "-0.50"', "input", "negative"),
        ('input = "0.50"', 'input = "1e-3"', "input", "not a decimal"),
        ('input = "0.50"', 'input = "٣"', "input", "not a decimal"),
        ('input = "0.50"', 'input = "0,50"', "input", "not a decimal"),
        ('input = "0.50"', 'input = "NaN"', "input", "not a decimal"),
        ('input = "0.50"', 'input = "0.1234567"', "input", "more decimals"),
        ('input = "0.50"', 'input = "0.1234567890123"', "input", "more decimals"),
        ('input = "0.50"', 'input = "99999999999999999999"', "input", "too large"),
        ('"1M tokens"', '"1 token"\n#', "input", None),
        ('input = "0.50"\n', "", "input", "missing"),
        ('cached_input = "0.05"\n', "", "cached_input", "missing"),
        ('output = "1.50"\n', "", "output", "missing"),
        ('source = "board 2026-02"\n', "", "source", "missing"),
        ('source = "board 2026-02"', 'source = " "', "source", "not empty"),
        ('"1M tokens"', '"2M tokens"', "per", "1M tokens"),
        ('"CNY"', '"XYZ"', "currency", "CNY"),
        ("+08:00", "", "effective_from", "offset"),
        ("2026-03-01T00:00:00+08:00", "2026-03-01", "effective_from", "offset"),
        ("2026-03-01T00:00:00+08:00", '"2026-03-01T00:00:00+08:00"', "effective_from", "without quotes"),
        ("2026-03-01", "1969-03-01", "effective_from", "1970"),
        ("2026-03-01", "2963-03-01", "effective_from", "1970"),
        ('per = "1M tokens"', 'per = "1M tokens"\ndiscount = "5"', "discount", "not known"),
        ('model = "qwen"', "model = 7", "model", "quotes"),
        ('model = "qwen"', 'model = "a\\nb"', "model", "printed"),
        ('model = "qwen"', f'model = "{"x" * 129}"', "model", "128"),
    ],
)
def test_a_complaint_names_entry_field_and_remedy(old: str, new: str, field: str, says: str | None) -> None:
    broken = PRICE.replace(old, new)
    if says is None:  # 100 per token is the limit
        broken = broken.replace('"0.50"', '"100.01"')
        says = "Check 'per'"
    assert broken != PRICE
    message = complaint(COST + PRICE.replace("qwen", "first") + broken)
    assert message.startswith("[[price]] 2")
    assert f"field '{field}'" in message
    assert says in message
    assert "\n" not in message
    if field != "model":
        assert "(qwen)" in message


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"7.5"', '"7.5001"', "watts_per_busy_core"),
        ('"7.5"', '"1001"', "watts_per_busy_core"),
        ('"0.60"', '"-1"', "kwh"),
        ('cpu_hour = "0.10"\n', "", "cpu_hour"),
    ],
)
def test_costs_are_checked_too(old: str, new: str, field: str) -> None:
    assert re.match(rf"\[\[cost\]\] 1 \(local\), field '{field}': ", complaint(COST.replace(old, new)))


GPU_COST = COST.replace("cpu_hour", "gpu_hour").replace("busy_core", "busy_gpu").replace('"7.5"', '"450"')


def test_the_cost_of_gpus_has_their_hours() -> None:
    (draft,) = parse_price_file(GPU_COST).tariffs
    assert [line.meter for line in draft.lines] == [Meter.GPU, Meter.ENERGY]
    tariff = draft.tariff(1)
    assert (tariff.watts_milli, tariff.of_gpus, tariff.of_vendor) == (450_000, True, False)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"450"', '"5001"', "watts_per_busy_gpu"),
        ('kwh = "0.60"\n', "", "kwh"),
        ('gpu_hour = "0.10"\n', "", "gpu_hour"),
        ("watts_per_busy_gpu", "watts_per_busy_core", "watts_per_busy_core"),
        ("gpu_hour", 'cpu_hour = "1"\ngpu_hour', "cpu_hour"),
    ],
)
def test_gpus_and_cores_are_not_mixed(old: str, new: str, field: str) -> None:
    assert f"field '{field}'" in complaint(GPU_COST.replace(old, new))


def test_all_complaints_come_at_once_up_to_a_bound() -> None:
    lines = complaint(PRICE.replace('"0.50"', "1") + COST.replace('"0.60"', "1")).split("\n")
    assert [line.split(",")[0] for line in lines] == ["[[price]] 1 (qwen)", "[[cost]] 1 (local)"]
    many = "".join(PRICE.replace("qwen", f"m{n}").replace('"0.50"', "1") for n in range(30))
    assert complaint(many).split("\n")[limits.PRICE_FILE_COMPLAINTS_MAX :] == ["… and 10 more."]


def test_the_same_subject_and_date_twice_is_refused_even_in_another_zone() -> None:
    again = PRICE.replace("2026-03-01T00:00:00+08:00", "2026-02-28T16:00:00Z")
    assert "[[price]] 2 (qwen), field 'effective_from': is the same as in [[price]] 1" in complaint(PRICE + again)
    assert len(parse_price_file(PRICE + PRICE.replace("2026", "2027")).tariffs) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [[price]]"),
        ("price = 3", "double brackets"),
        ("[price]\nmodel = 'm'", "double brackets"),
        ("[[discount]]\nx = 1", "'discount' is not known"),
        ("[[price]\n", "line 1"),
    ],
)
def test_a_file_of_another_shape_is_refused(text: str, says: str) -> None:
    assert says in complaint(text)


def test_a_file_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRICE_FILE_BYTES_MAX", 10)
    assert "larger than 10 bytes" in complaint(PRICE)


def demo() -> tuple[Tariff, Tariff]:
    price, cost = (
        Tariff(0, draft.subject, draft.currency, draft.effective_from_ns, draft.lines, draft.source, draft.watts_milli)
        for draft in parse_price_file(demo_price_text()).tariffs
        if not draft.tier
    )
    return price, cost


def test_the_demonstration_earns_what_its_comment_says() -> None:
    price, cost = demo()
    cpu_ns = 300_000_000
    usage = Usage(input=16, output=10, cpu_ns=cpu_ns, energy_uj=cpu_ns * cost.watts_milli // 10**6)
    charged = sum(line.amount_nano for line in charge_of(usage, price))
    spent = [line.amount_nano for line in cost_of(usage, cost)]
    assert (charged, spent, charged - sum(spent)) == (23_000, [8_333, 400], 14_267)
    text = demo_price_text()
    for shown in ("23.00", "8.33", "0.40", "14.27", "62 %"):
        assert shown in text


def test_cached_prompt_tokens_are_cheaper_in_the_demonstration() -> None:
    fresh, cached, _ = demo()[0].lines
    assert 0 < cached.pico < fresh.pico


@pytest.mark.parametrize("name", ["qwen3-0.6b", 'say "hi"', "back\\slash", "模型", "🙂"])
def test_any_model_can_have_the_demonstration_price(name: str) -> None:
    draft, batch = parse_price_file(demo_tariff_for(name)).tariffs
    assert (batch.subject, batch.tier) == (name, "batch")
    price, _ = demo()
    assert draft.subject == name
    assert (draft.lines, draft.currency, draft.effective_from_ns) == (
        price.lines,
        price.currency,
        price.effective_from_ns,
    )


def test_a_model_that_only_reads_is_priced_by_its_input_alone() -> None:
    (draft,) = parse_price_file(PRICE.replace('cached_input = "0.05"\noutput = "1.50"\n', "")).tariffs
    assert draft.lines == (TariffLine(Meter.INPUT, "0.50", 500_000_000_000, 1_000_000),)


def test_a_batch_costs_half_in_the_demonstration() -> None:
    normal, batch, _ = parse_price_file(demo_price_text()).tariffs
    assert (normal.tier, batch.tier) == ("", "batch")
    assert [line.pico * 2 for line in batch.lines] == [line.pico for line in normal.lines]


def test_a_tier_that_nobody_knows_is_refused() -> None:
    assert "'flex' is not known" in complaint(PRICE + '\ntier = "flex"\n')
    assert "'tier': is not known" in complaint(COST + '\ntier = "batch"\n')


def test_cache_writes_and_reasoning_may_have_prices_of_their_own() -> None:
    (draft,) = parse_price_file(PRICE + 'cache_write = "0.60"\nreasoning = "2.50"\n').tariffs
    priced = {line.meter: line.text for line in draft.lines}
    assert priced == {
        Meter.INPUT: "0.50",
        Meter.CACHED_INPUT: "0.05",
        Meter.CACHE_WRITE: "0.60",
        Meter.OUTPUT: "1.50",
        Meter.REASONING: "2.50",
    }
    assert "field 'reasoning'" in complaint(PRICE + "reasoning = 2.5\n")


def test_the_example_of_the_page_on_price_files_can_be_loaded() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "prices.md").read_text(encoding="utf-8")
    (draft,) = parse_price_file(page.partition("```toml\n")[2].partition("```")[0]).tariffs
    assert {line.meter for line in draft.lines} == set(PRICE_METERS)


VENDOR = """
[[cost]]
upstream = "deepseek"
model = "deepseek-flash"
currency = "CNY"
effective_from = 2026-08-17T00:00:00+08:00
per = "1M tokens"
input = "1"
cached_input = "0.02"
output = "4"
source = "their list"
"""
RATE = """
[[rate]]
from = "USD"
to = "CNY"
rate = "7.1034"
effective_from = 2026-11-01T00:00:00+08:00
source = "the bank"
"""


def test_a_vendors_cost_has_the_lines_of_a_price() -> None:
    (draft,) = parse_price_file(VENDOR).tariffs
    assert (draft.book, draft.subject, draft.model, draft.watts_milli) == ("cost", "deepseek", "deepseek-flash", 0)
    assert [(line.meter, line.text, line.per) for line in draft.lines] == [
        (Meter.INPUT, "1", 10**6), (Meter.CACHED_INPUT, "0.02", 10**6), (Meter.OUTPUT, "4", 10**6),
    ]  # fmt: skip
    assert draft.tariff(1).of_vendor and not parse_price_file(COST).tariffs[0].tariff(1).of_vendor


def test_an_upstream_has_a_cost_for_each_model_and_date() -> None:
    other = VENDOR.replace('"deepseek-flash"', '"deepseek-v4-pro"')
    of_all = VENDOR.replace('model = "deepseek-flash"\n', "")
    assert [draft.model for draft in parse_price_file(VENDOR + other + of_all).tariffs] == [
        "deepseek-flash", "deepseek-v4-pro", "",
    ]  # fmt: skip
    assert "is the same as in [[cost]] 1" in complaint(VENDOR + VENDOR)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('input = "1"', 'input = "1"\ncpu_hour = "1"', "cpu_hour"),
        ('per = "1M tokens"\n', "", "per"),
        ('output = "4"\n', "", "output"),
        ('source = "their list"\n', "", "source"),
        ('model = "deepseek-flash"', 'model = ""', "model"),
        ('model = "deepseek-flash"', 'model = "deepseek-flash"\ntier = "batch"', "tier"),
    ],
)
def test_a_complaint_about_a_vendors_cost_names_the_field(old: str, new: str, field: str) -> None:
    message = complaint(VENDOR.replace(old, new))
    assert message.startswith("[[cost]] 1 (deepseek), ")
    assert f"field '{field}'" in message


def test_a_rate_says_what_one_unit_is_worth() -> None:
    (draft,) = parse_price_file(RATE).tariffs
    assert (draft.book, draft.subject, draft.currency) == ("rate", "USD", "CNY")
    assert draft.lines == (TariffLine(Meter.MONEY, "7.1034", 7_103_400_000_000, 10**9),)
    both = parse_price_file(RATE + RATE.replace('"CNY"', '"EUR"')).tariffs
    assert [one.currency for one in both] == ["CNY", "EUR"]
    assert "is the same as in [[rate]] 1" in complaint(RATE + RATE)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"7.1034"', '"0"', "rate"),
        ('"7.1034"', '"1000000.1"', "rate"),
        ('"7.1034"', "7.1034", "rate"),
        ('to = "CNY"', 'to = "USD"', "to"),
        ('to = "CNY"', 'to = "JPY"', "to"),
        ('from = "USD"', 'from = "XAU"', "from"),
        ('rate = "7.1034"', 'rate = "7.1034"\nper = "1"', "per"),
    ],
)
def test_a_complaint_about_a_rate_names_the_field(old: str, new: str, field: str) -> None:
    message = complaint(RATE.replace(old, new))
    assert message.startswith("[[rate]] 1")
    assert f"field '{field}'" in message
