"""Random batches of random requests: the books balance, agree with their sub-ledger, and no wallet is below zero."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.ledger import TARIFFS, TOPUP_NANO, Requests, books

from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Rated
from steelyard.ledger.posting import post
from steelyard.ledger.purses import wallet_balances
from steelyard.ledger.teller import Teller
from steelyard.ledger.verify import verify
from steelyard.rating.rate import rate

counts = st.integers(0, 2_000_000)
usages = st.builds(Usage, counts, counts, counts, st.integers(0, 10**13), st.integers(0, 10**12), counts, counts)
one_request = st.tuples(st.integers(1, 2), st.integers(0, 3_000_000_000), usages)
batches = st.lists(st.lists(one_request, max_size=8), min_size=1, max_size=5)


@settings(max_examples=40)
@given(plan=batches, repeat=st.booleans())
def test_random_postings_balance(plan: list[list[tuple[int, int, Usage]]], repeat: bool) -> None:
    requests = Requests()
    teller = Teller({1: TOPUP_NANO, 2: TOPUP_NANO})
    with tempfile.TemporaryDirectory() as folder:
        engine = books(Path(folder) / "books.db", clock=requests.clock)
        for batch in plan:
            rated: list[Rated] = [requests.rated(tenant, hold, usage) for tenant, hold, usage in batch]
            with engine.begin() as connection:
                posted = post(connection, rated, {}, requests.clock)
                if repeat:
                    assert post(connection, rated, {}, requests.clock) == []
            assert posted == rated
            for one in posted:
                opened = one.settlement.opened
                teller.settle(opened.request_id, opened.tenant_id, opened.hold_nano, one.charge_nano)
            requests.clock.advance(1_700 * 10**9)
        with engine.connect() as connection:
            balances = wallet_balances(connection)
            findings = verify(connection, rate, TARIFFS, teller.complaints(balances))
        engine.dispose()
    assert [finding.detail for finding in findings if not finding.ok] == []
    assert min(balances.values()) >= 0
