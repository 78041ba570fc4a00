"""`make bench-rating`: what it takes to rate a request, by what its tariffs are like.

`rate_all` over settlements in memory, 1,000 at once as the books post them: an engine's cost, a vendor's, a vendor's in
another currency, prices with variants that count for the whole request, and with bands that count for the tokens in
them.
"""

import gc
import sys
import time
from functools import partial
from random import Random

import msgspec
from tests.fakes.ledger import COST, PRICE, Requests

from bench.report import RUNS_MIN, Report, median
from steelyard.catalog.price_file import parse_price_file
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Settlement
from steelyard.kernel.tariff import Tariff
from steelyard.rating.rate import rate_all

REQUESTS = 20_000
BATCH = 1_000
_BANDS = """
[[price.when]]
name = "peak, long"
zone = "Asia/Shanghai"
hours = ["09:00-12:00"]
input_over = 1000
input = "2.4"
output = "20"
[[price.when]]
name = "long"
input_over = 1000
input = "1.2"
output = "16"
[[price.when]]
name = "long answer"
output_over = 200
output = "8"
"""
_MARGINAL = """
[[price.when]]
name = "above 1k"
input_over = 1000
input = "2.4"
[[price.when]]
name = "above 500"
input_over = 500
input_up_to = 1000
input = "1.2"
"""
_PRICE = """
[[price]]
model = "small"
currency = "CNY"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "0.8"
cached_input = "0.2"
output = "2"
source = "a measurement"
"""
_VENDOR = """
[[cost]]
upstream = "local"
currency = "{currency}"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "0.4"
cached_input = "0.1"
output = "1"
source = "a measurement"
"""
_RATE = """
[[rate]]
from = "USD"
to = "CNY"
effective_from = 2026-01-01T00:00:00Z
rate = "7.1"
source = "a measurement"
"""


def read(text: str, number: int) -> Tariff:
    return parse_price_file(text).tariffs[0].tariff(number)


def settlements(price: Tariff, cost: Tariff, rate: Tariff | None) -> list[Settlement]:
    dice = Random(1)
    requests = Requests(ManualClock())
    made = []
    for _ in range(REQUESTS):
        ids = {
            "price_id": price.id,
            "cost_id": cost.id,
            "rate_id": rate.id if rate else 0,
            "price_when": dice.randrange(8),
        }
        opened = msgspec.structs.replace(requests.opened(), **ids)
        usage = Usage(dice.randrange(2000), dice.randrange(500), dice.randrange(800), dice.randrange(10**10), 10**7)
        made.append(Settlement(opened, requests.closed(opened, usage)))
    return made


def took_us(load: list[Settlement], tariffs: dict[int, Tariff]) -> float:
    """µs of CPU for one."""
    gc.collect()
    started = time.process_time()
    for start in range(0, len(load), BATCH):
        rate_all(load[start : start + BATCH], tariffs)
    return (time.process_time() - started) / len(load) * 1e6


def main() -> int:
    vendor, dollars, rate = (
        read(_VENDOR.format(currency="CNY"), 3),
        read(_VENDOR.format(currency="USD"), 4),
        read(_RATE, 5),
    )
    bands, marginal = read(_PRICE + _BANDS, 6), read(_PRICE + "marginal = true\n" + _MARGINAL, 7)
    first = "an engine's cost"
    cases: dict[str, tuple[Tariff, Tariff, Tariff | None]] = {
        first: (PRICE, COST, None),
        "a vendor's cost": (PRICE, vendor, None),
        "a vendor's cost in another currency": (PRICE, dollars, rate),
        "three variants, whole-request bands": (bands, COST, None),
        "two marginal bands": (marginal, COST, None),
        "three variants, a vendor's cost in another currency": (bands, dollars, rate),
    }
    report = Report("rating", "µs per request")
    for label, parts in cases.items():
        load, tariffs = settlements(*parts), {one.id: one for one in parts if one is not None}
        took_us(load[:BATCH], tariffs)
        report.add(label, median(partial(took_us, load, tariffs), RUNS_MIN + 2), "" if label == first else first)
    report.finish(requests=REQUESTS, batch=BATCH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
