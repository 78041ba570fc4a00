"""A price and a cost as files say them, and what is said of a file that is wrong."""

import pytest

from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel.errors import CallerError

PRICE = """
[[price]]
model = "qwen"
currency = "CNY"
effective_from = 2026-03-01T00:00:00+08:00
per = "1M tokens"
input = "0.50"
cached_input = "0.05"
output = "1.50"
source = "board 2026-02"
"""
COST = """
[[cost]]
upstream = "local"
currency = "CNY"
effective_from = 2026-03-01T00:00:00Z
cpu_hour = "0.10"
watts_per_busy_core = "7.5"
kwh = "0.60"
source = "meter"
"""


def complaint(text: str) -> str:
    with pytest.raises(CallerError) as caught:
        parse_price_file(text)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_price_file", "text")
    return caught.value.message
