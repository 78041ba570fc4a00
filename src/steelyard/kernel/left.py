"""What is left to a customer beside a request he was given a hold for: told to him, decides nothing.

Records only. They travel with the grant, so that an answer can say it without asking anybody.
"""

import msgspec


class Rate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A limit on any 60 seconds: `most` in all, `left` beside the request; more is left from `more_at_ns` on."""

    most: int
    left: int
    more_at_ns: int


class Left(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`available_nano`: what the wallet has beside all holds; None where the books were not asked. Of several limits of
    a kind the one that leaves least."""

    available_nano: int | None
    requests: Rate | None = None
    tokens: Rate | None = None
