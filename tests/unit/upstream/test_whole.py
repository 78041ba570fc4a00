"""Who is asked for an answer in one piece: whoever can, where nobody waits for a part and nothing is owed for one."""

import msgspec
import pytest
from tests.fakes.parties import CALLER, COST, OFFER, PRICE

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Meter
from steelyard.kernel.records import Order, Quote
from steelyard.kernel.tariff import Condition, Tariff, TariffLine, Variant
from steelyard.routing.attempts import patience_of
from steelyard.routing.router import Router

SERVER = msgspec.structs.replace(OFFER, kind="openai")
HASTY = msgspec.structs.replace(SERVER, first_token_s=2)
FREE = Tariff(3, "fake", "CNY", 0, (TariffLine(Meter.INPUT, "0", 0, 1), TariffLine(Meter.OUTPUT, "0", 0, 1)))
AT_NIGHT = msgspec.structs.replace(FREE, variants=(Variant("night", Condition(thinking=True), PRICE.lines),))
ORDER = Order(bytes(16), "m", {}, 10, 20, 1, False)


def quote(**changes: object) -> Quote:
    return msgspec.structs.replace(Quote(CALLER, SERVER, PRICE, COST, 1, 20, False, 0), **changes)


@pytest.mark.parametrize(
    ("asked", "changes", "is_whole"),
    [
        ({}, {}, True),
        ({"sequences": 3}, {}, True),
        ({}, {"cost": FREE}, True),
        ({"stream": True}, {}, False),
        ({"capability": Capability.EMBEDDING}, {}, False),
        ({}, {"offer": OFFER}, False),
        ({}, {"offer": HASTY}, False),
        ({}, {"cost": PRICE}, False),
        ({}, {"cost": AT_NIGHT}, False),
        ({}, {"max_tokens": limits.WHOLE_TOKENS_MAX + 1}, False),
    ],
)
def test_only_where_all_of_it_is_waited_for_and_no_token_is_owed(
    asked: dict[str, object], changes: dict[str, object], is_whole: bool
) -> None:
    order, quoted = msgspec.structs.replace(ORDER, **asked), quote(**changes)
    assert quoted.is_whole(order) is is_whole
    for before in (quote(), quote(cost=PRICE)):  # what a call found out of its quote is not held of another
        router = Router()
        router.begin(ORDER, before, 0)
        assert router.begin(order, quoted, 0).whole is is_whole


def test_it_has_the_time_to_make_it_before_another_is_asked() -> None:
    assert patience_of(ORDER, quote(max_tokens=1000)) == limits.FIRST_TOKEN_S + limits.WHOLE_TOKEN_MS
    assert patience_of(ORDER, quote(cost=PRICE)) == limits.FIRST_TOKEN_S
    assert patience_of(ORDER, quote(offer=HASTY, max_tokens=100)) == HASTY.first_token_s


def test_a_line_of_a_batch_waits_for_its_turn_at_an_engine_unless_the_operator_says_how_long() -> None:
    line = msgspec.structs.replace(ORDER, deadline_ns=86_400 * NS_PER_S)
    assert patience_of(line, quote(offer=OFFER)) is None
    assert patience_of(line, quote(offer=msgspec.structs.replace(OFFER, first_token_s=2))) == 2
    assert patience_of(ORDER, quote(offer=OFFER)) == limits.FIRST_TOKEN_S
    assert patience_of(line, quote(cost=PRICE)) == limits.FIRST_TOKEN_S, "a vendor has no line to wait in"
