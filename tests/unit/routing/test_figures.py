"""What Prometheus is told of offers."""

from prometheus_client.parser import text_string_to_metric_families
from tests.fakes.parties import CALLER, COST, OFFER, PRICE

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Model
from steelyard.kernel.records import Order, Quote
from steelyard.routing.figures import text_of
from steelyard.routing.router import Router

ORDER = Order(bytes(16), "m", {}, 10, 20, 1, True)
QUOTE = Quote(CALLER, OFFER, PRICE, COST, 1, 20, False, 0)


def test_offers_left_alone_and_measured_ones_are_told_with_their_worker() -> None:
    router, model = Router(2, 1), Model(1, 'm"1', 0, 100, (OFFER,))
    told = {family.name: family for family in text_string_to_metric_families(text_of(router, [model], 5))}
    assert set(told) == {"steelyard_losing_requests"}, "nothing was called yet"
    call = router.begin(ORDER, QUOTE, 0)
    call.spoke(2 * 10**9)
    router.failed(OFFER, UpstreamError("fake", "answered 402").known_as(Fault.NO_MONEY), 3 * 10**9, None)
    told = {family.name: family for family in text_string_to_metric_families(text_of(router, [model], 3 * 10**9))}
    (left,) = told["steelyard_offer_left_alone"].samples
    assert left.labels == {"model": 'm"1', "upstream": "fake", "reason": "no_money", "worker": "1"}
    assert [one.value for one in told["steelyard_offer_first_token_seconds"].samples] == [2.0, 2.0]
    assert told["steelyard_offer_in_flight"].samples[0].value == 1
