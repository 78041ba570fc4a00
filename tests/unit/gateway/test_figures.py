"""Amounts and times as programs and people read them."""

import pytest

from steelyard.gateway.figures import deadline_ns, moment_ns, period_ns, with_texts
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.frozen import Record

NOW_NS = 1_790_000_000 * NS_PER_S


class Bill(Record, frozen=True):
    charge_nano: int
    posted_ns: int
    duration_ns: int
    lines: tuple[dict[str, int], ...] = ()


def test_amounts_get_their_text_and_moments_their_date() -> None:
    told = with_texts([Bill(12_500_000_001, 1_767_225_600 * NS_PER_S, 5, ({"amount_nano": -1},))])
    assert told == [
        {
            "charge_nano": 12_500_000_001,
            "charge": "12.500000001",
            "posted_ns": 1_767_225_600 * NS_PER_S,
            "posted_at": "2026-01-01T00:00:00.000Z",
            "duration_ns": 5,
            "lines": [{"amount_nano": -1, "amount": "-0.000000001"}],
        }
    ]


def test_a_field_that_is_there_already_is_not_replaced() -> None:
    assert with_texts({"charge_nano": 1, "charge": ["lines"]}) == {"charge_nano": 1, "charge": ["lines"]}


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("2026-01-01", 1_767_225_600),
        ("2026-01-01T08:00:00+08:00", 1_767_225_600),
        ("2026-01-01T00:00:00Z", 1_767_225_600),
        ("90m", 1_790_000_000 - 5400),
        ("24h", 1_790_000_000 - 86_400),
        ("2w", 1_790_000_000 - 14 * 86_400),
    ],
)
def test_moments(text: str, expected_s: int) -> None:
    assert moment_ns(text, NOW_NS, "since") == expected_s * NS_PER_S


NO_MOMENTS = ["", "yesterday", "7", "-7d", "2026-13-01"]
TOO_FAR = ["0001-01-01", "0001-01-01T00:00:00+08:00", "9999-12-31", "99999w"]


@pytest.mark.parametrize("text", [*NO_MOMENTS, *TOO_FAR])
def test_no_moment_is_refused_by_name(text: str) -> None:
    for read in (moment_ns, deadline_ns):
        with pytest.raises(CallerError) as refused:
            read(text, NOW_NS, "until")
        assert refused.value.param == "until"
        assert ("1678 to 2261" in refused.value.message) is (text in TOO_FAR)


def test_a_period_without_bounds_has_none() -> None:
    assert period_ns(None, None, NOW_NS) == (None, None)
    assert period_ns("1d", None, NOW_NS) == (NOW_NS - 86_400 * NS_PER_S, None)
