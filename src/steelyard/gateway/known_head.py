"""A head that a connection has sent before: byte for byte the same again but for the length, it is not read again.

Clients on a connection that lives repeat their head with every request. What was learnt was read strictly by the parser
once; only whole requests with nothing behind them are taken, everything else is the parser's. Owns no connection.
"""

from typing import NamedTuple

from steelyard.gateway.exchange import Hot
from steelyard.gateway.wire import Body, Heads
from steelyard.kernel import limits

_LENGTH = b"\r\ncontent-length: "
_END = b"\r\n\r\n"
_DIGITS_MAX = 8


class KnownHead(NamedTuple):
    """One head as bytes, around the number of its Content-Length."""

    before: bytes
    after: bytes  # to the empty line, the only one there is
    shortest: int  # bytes before the empty line with the shortest number
    longest: int  # bytes with the longest, the empty line included
    hot: Hot
    heads: Heads

    def body_of(self, data: bytes) -> Body | None:
        """The body, if `data` is this head again and a whole body of the length it tells."""
        begin, length = data.find(_END, self.shortest, self.longest) + 4, len(data)
        if not data.startswith(b"%b%d%b" % (self.before, length - begin, self.after)):
            return None
        return data[begin:] if length < limits.BODY_COPIED_BYTES else memoryview(data)[begin:]


def learnt(data: bytes, hot: Hot, heads: Heads) -> KnownHead | None:
    """What to know of a request that came whole in `data`; None when it did not, or is not told by its length."""
    end = data.find(_END) + 4
    lower = data[:end].lower()
    at = lower.find(_LENGTH) + len(_LENGTH)
    if end < 4 or at < len(_LENGTH) or lower.find(_LENGTH, at) >= 0:
        return None
    after = data.find(b"\r", at)
    most = at + end - after
    known = KnownHead(data[:at], data[after:end], most - 3, most + _DIGITS_MAX, hot, heads)
    return known if known.body_of(data) is not None else None
