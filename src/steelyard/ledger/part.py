"""What part of a request some money covers, and what money a part of it needs. Pure arithmetic of a `HoldAsk`."""

from steelyard.kernel.records import HoldAsk


def tokens_within(ask: HoldAsk, money_nano: int) -> int:
    """No fewer than the output tokens per sequence that so much money covers, at most what is asked.

    Worst cases grow evenly from the floor (one token) to what is wanted, but for their rounding up.
    """
    evenly = ask.want_nano - ask.floor_nano - 1
    if money_nano >= ask.want_nano or evenly <= 0:
        return ask.max_tokens
    return min(ask.max_tokens, 1 + (money_nano + 1 - ask.floor_nano) * (ask.max_tokens - 1) // evenly)


def money_for(ask: HoldAsk, max_tokens: int) -> int:
    """No less than the money that so many output tokens per sequence need, at most what is asked."""
    if max_tokens >= ask.max_tokens:
        return ask.want_nano
    more = (ask.want_nano - ask.floor_nano) * (max_tokens - 1)
    return min(ask.want_nano, ask.floor_nano + 2 - (-more // (ask.max_tokens - 1)))
