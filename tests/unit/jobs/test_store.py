"""The books' part of jobs: which answers a dead worker kept that the books know nothing of."""

from pathlib import Path

import msgspec
import pytest
from tests.fakes.ledger import COST, PRICE, Requests, books

from steelyard.jobs import store
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import End, Rated, Settlement
from steelyard.ledger.posting import post
from steelyard.rating.rate import rate


@pytest.mark.parametrize(
    "bucket", ["input", "cached_input", "cache_write", "output", "reasoning", "reused_input", "reused_output"]
)
def test_what_died_before_anything_was_counted_is_told_from_what_left_something(tmp_path: Path, bucket: str) -> None:
    engine = books(tmp_path / "books.db")
    requests = Requests()

    def died(usage: Usage) -> Rated:
        opened = requests.opened()
        closed = msgspec.structs.replace(requests.closed(opened), end=End.WORKER_DIED.value, usage=usage)
        return rate(Settlement(opened, closed), PRICE, COST)

    rated = [died(Usage()), died(Usage(cpu_ns=5)), died(Usage(**{bucket: 1}))]
    ids = [one.settlement.opened.request_id for one in rated]
    with engine.begin() as connection:
        post(connection, rated, {}, requests.clock)
        assert set(store.uncounted(connection, ids)) == set(ids[:2])
    engine.dispose()
