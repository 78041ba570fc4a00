"""What is left to the customer, as headers: the wallet's balance, and the limits per minute in the names clients read.

True at one moment only, so a kept answer is replayed without them.
"""

from steelyard.gateway.wire import Headers
from steelyard.kernel.clock import NS_PER_S, iso_from_ns
from steelyard.kernel.left import Left, Rate
from steelyard.kernel.money import text_from_nano

BALANCE = b"x-steelyard-balance"
OF_THE_MOMENT = (BALANCE, b"x-ratelimit-", b"anthropic-ratelimit-")
"""What such headers begin with."""


def balance_header(nano: int) -> tuple[bytes, bytes]:
    return BALANCE, text_from_nano(nano).encode()


def openai_rates(left: Left, now_ns: int) -> Headers:
    """`reset` is how long it takes until more is left."""
    headers: Headers = []
    for what, rate in _rates(left):
        wait_s = max(0, -(-(rate.more_at_ns - now_ns) // NS_PER_S))
        headers += [
            (b"x-ratelimit-limit-%b" % what, b"%d" % rate.most),
            (b"x-ratelimit-remaining-%b" % what, b"%d" % rate.left),
            (b"x-ratelimit-reset-%b" % what, b"%ds" % wait_s),
        ]
    return headers


def anthropic_rates(left: Left, now_ns: int) -> Headers:
    """`reset` is the moment from which more is left."""
    headers: Headers = []
    for what, rate in _rates(left):
        more_at = iso_from_ns(-(-rate.more_at_ns // NS_PER_S) * NS_PER_S)
        headers += [
            (b"anthropic-ratelimit-%b-limit" % what, b"%d" % rate.most),
            (b"anthropic-ratelimit-%b-remaining" % what, b"%d" % rate.left),
            (b"anthropic-ratelimit-%b-reset" % what, more_at.encode()),
        ]
    return headers


def _rates(left: Left) -> list[tuple[bytes, Rate]]:
    both = ((b"requests", left.requests), (b"tokens", left.tokens))
    return [(what, rate) for what, rate in both if rate is not None]
