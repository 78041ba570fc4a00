"""Bills that other gateways got wrong, by name, at given prices."""

from datetime import UTC, datetime

import pytest

from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.tariffs import in_force
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Tariff
from steelyard.rating.bounds import worst_case_nano
from steelyard.rating.rate import charge_of


def price(input: str, cached_input: str, output: str, *starts: str) -> tuple[Tariff, ...]:
    """Versions per million tokens; each later one costs double."""
    entries = [
        f'[[price]]\nmodel="m"\ncurrency="USD"\neffective_from={start}\nper="1M tokens"\ninput="{input}"\n'
        f'cached_input="{cached_input}"\noutput="{output}"\nsource="test"\n'
        for start in starts or ("2026-01-01T00:00:00Z",)
    ]
    drafts = parse_price_file("".join(entries)).tariffs
    return tuple(
        Tariff(number, draft.subject, draft.currency, draft.effective_from_ns, draft.lines)
        for number, draft in enumerate(drafts, 1)
    )


def charged(usage: Usage, tariff: Tariff) -> dict[str, int]:
    return {line.meter.value: line.amount_nano for line in charge_of(usage, tariff)}


def test_a_long_prompt_that_was_nearly_all_cached() -> None:
    """262,960 prompt tokens, 257,955 of them cached, 1,744 output, at 1.25 / 0.125 / 10 per million: 0.05594... and
    not 0.346..., which is what comes out when cached tokens are charged as fresh ones."""
    (tariff,) = price("1.25", "0.125", "10")
    usage = Usage(input=262_960 - 257_955, cached_input=257_955, output=1_744)
    assert usage.prompt == 262_960
    assert charged(usage, tariff) == {"input": 6_256_250, "cached_input": 32_244_375, "output": 17_440_000}
    assert sum(charged(usage, tariff).values()) == 55_940_625
    as_fresh = sum(charged(Usage(262_960, 0, 1_744), tariff).values())
    assert as_fresh == 346_140_000 <= worst_case_nano(tariff, 262_960, 1_744, 1)


def test_cached_tokens_that_come_on_top_of_the_fresh_ones() -> None:
    """Some vendors count cached tokens beside the input ones: 100 fresh and 10,000 cached at 3 / 0.3 / 15 per million.
    In our buckets no token stands twice, so both dialects rate alike."""
    (tariff,) = price("3", "0.3", "15")
    usage = Usage(input=100, cached_input=10_000)
    assert usage.prompt == 10_100
    assert charged(usage, tariff) == {"input": 300_000, "cached_input": 3_000_000}


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * NS_PER_S


@pytest.mark.parametrize(("offset_ns", "version"), [(-1, 1), (0, 2), (1, 2)])
def test_a_price_change_counts_from_its_very_nanosecond(offset_ns: int, version: int) -> None:
    versions = price("1", "1", "1", "2026-07-01T00:00:00Z", "2026-07-02T12:30:15Z")
    found = in_force(versions, ns("2026-07-02T12:30:15+00:00") + offset_ns)
    assert found is not None and found.id == version


@pytest.mark.parametrize(
    ("start", "before", "after"),
    [
        # Spring: 02:00 becomes 03:00 in Berlin. The first minute of summer time is one minute after the last of winter.
        ("2026-03-29T03:00:00+02:00", "2026-03-29T01:59:59+01:00", "2026-03-29T03:00:00+02:00"),
        # Autumn: the hour from 02:00 comes twice. A price from the second one leaves the first alone.
        ("2026-10-25T02:30:00+01:00", "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
    ],
)
def test_a_price_change_at_a_change_of_daylight_saving_is_one_moment(start: str, before: str, after: str) -> None:
    versions = price("1", "1", "1", "2026-01-01T00:00:00Z", start)
    assert [found and found.id for found in (in_force(versions, ns(before)), in_force(versions, ns(after)))] == [1, 2]
    assert ns(after) > ns(before)


def test_a_start_without_an_offset_is_refused() -> None:
    """02:30 local time would be two moments in autumn and none in spring."""
    with pytest.raises(Exception, match="offset"):
        price("1", "1", "1", "2026-10-25T02:30:00")
