"""Why a posted request went where it went: kept with its usage, told with names."""

import msgspec
import pytest
from sqlalchemy import func, insert, select, update
from tests.unit.reports.shop import SMOL, Shop

from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Rated
from steelyard.kernel.why import Tried, Weighed, Why, bytes_from_why
from steelyard.ledger.verify import verify
from steelyard.rating.rate import rate
from steelyard.reports.requests import detail
from steelyard.storage import tables


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A shop whose model has two offers."""
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    model_id = shop.books.execute(
        insert(tables.models).values(name=SMOL, created_ns=0, default_max_tokens=100).returning(tables.models.c.id)
    ).scalar_one()
    for place, upstream in enumerate(("near", "far"), 1):
        row = {"id": place, "model_id": model_id, "upstream": upstream, "address": "x:1", "upstream_model": "smol"}
        more = {"context_tokens": 100, "max_output_tokens": 50, "enabled": True}
        shop.books.execute(insert(tables.offers).values(row | more))
    return shop


def sold(shop: Shop, **changes: object) -> Rated:
    rated = shop.request("acme", Usage(10, 0, 5))
    opened = msgspec.structs.replace(rated.settlement.opened, **changes)
    return msgspec.structs.replace(rated, settlement=msgspec.structs.replace(rated.settlement, opened=opened))


def test_the_choice_and_who_was_asked_in_vain_are_told_with_names(stocked: Shop) -> None:
    why = Why("cheapest", "key", (Weighed(2, 1, cost_nano=7, held_permille=400), Weighed(1, 2), Weighed(77, 0, "open")))
    one = sold(stocked, why=bytes_from_why(why), tried=(Tried("far", "server"),))
    plain = sold(stocked)
    stocked.sell(one, plain)
    found, other = (detail(stocked.books, each.settlement.opened.request_id) for each in (one, plain))
    assert found is not None and other is not None
    assert other.way is None
    assert found.way is not None
    assert (found.way.policy, found.way.decided_by, found.way.reason) == ("cheapest", "key", "cache")
    assert [(one.upstream, one.model, one.rank) for one in found.way.offers] == [
        ("far", SMOL, 1),
        ("near", SMOL, 2),
        ("#77", "", 0),  # withdrawn since, and gone from the books
    ]
    assert found.way.offers[2].left_out == "open"
    assert found.way.tried == (Tried("far", "server"),)


def test_only_requests_with_a_choice_cost_a_row_and_none_is_in_a_hash(stocked: Shop) -> None:
    stocked.sell(sold(stocked), sold(stocked, tried=(Tried("far", "rate_limited"),)))
    rows = select(func.count()).select_from(tables.choices)
    assert stocked.books.execute(rows).scalar_one() == 1
    stocked.books.execute(update(tables.choices).values(way=b"\xc1"))  # of a later version
    tariffs = {one.id: one for pair in stocked.prices.values() for one in pair}
    assert not [one for one in verify(stocked.books, rate, tariffs) if not one.ok]
    request_id = stocked.rated[-1].settlement.opened.request_id
    found = detail(stocked.books, request_id)
    assert found is not None and found.way is None
