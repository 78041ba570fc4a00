"""What an answer has used so far, by its upstream's counts or, where they are missing, by ours.

Owns the rules that adapters of vendors' dialects share: counts are cumulative and never fall, what is delivered before
any came is counted low, and an answer without any is estimated, never taken for nothing. Knows no dialect.
"""

import msgspec
import structlog

from steelyard.kernel.quantities import Usage

log = structlog.get_logger()

_BYTES_PER_TOKEN = 4  # of an answer without any count
_BYTES_PER_TOKEN_MAX = 8  # of a prompt whose count is still to come: low, so that the count only rises


class Tally:
    """The counts of one sequence. `asked_bytes` is the size of the prompt's text."""

    def __init__(self, upstream: str, asked_bytes: int) -> None:
        self.pieces = 0  # that said something: at least one token each
        self._upstream = upstream
        self._asked_bytes = asked_bytes
        self._said_bytes = 0
        self._told = Usage()

    def say(self, text: str) -> None:
        """What the answer holds, token by token or not."""
        self._said_bytes += len(text.encode())

    def low(self) -> Usage:
        """At least this much, while the counts are still to come."""
        return Usage(max(1, self._asked_bytes // _BYTES_PER_TOKEN_MAX), 0, self.pieces)

    def estimate(self) -> Usage:
        """About this much, when no counts came."""
        log.warning("usage_estimated", upstream=self._upstream)
        output = max(self.pieces, -(-self._said_bytes // _BYTES_PER_TOKEN), 1)
        return Usage(max(1, -(-self._asked_bytes // _BYTES_PER_TOKEN)), 0, output)

    def rising(self, usage: Usage) -> Usage:
        """These counts, or what was told before where they fell below it."""
        told = self._told
        if usage.prompt < told.prompt or usage.output < told.output:
            log.warning("usage_fell", upstream=self._upstream, told=told, now=usage)
        # A cache read moves tokens from one bucket to the other: only the prompt as a whole never falls.
        fresh = usage.input + max(0, told.prompt - usage.prompt)
        self._told = msgspec.structs.replace(usage, input=fresh, output=max(usage.output, told.output))
        return self._told
