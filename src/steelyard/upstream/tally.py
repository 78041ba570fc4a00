"""What an answer has used so far, by its upstream's counts or, where they are missing, by ours.

Owns the rules that adapters of vendors' dialects share: counts are cumulative and never fall, what is delivered before
any came is counted low, and an answer without any is estimated, never taken for nothing. Pieces of reasoning count as
reasoning; told how much of the whole it was, a part that has left already does not shrink. Knows no dialect.
"""

from collections.abc import Callable

import msgspec
import structlog

from steelyard.kernel.quantities import Usage

log = structlog.get_logger()

_NOTHING = Usage()
_BYTES_PER_TOKEN = 4  # of an answer without any count
_BYTES_PER_TOKEN_MAX = 8  # of a prompt whose count is still to come: low, so that the count only rises


class Tally(msgspec.Struct, eq=False):
    """The counts of one sequence."""

    _upstream: str
    _asked_bytes: Callable[[], int]  # finds out the size of the prompt's text, for where no counts come
    pieces: int = 0  # that said something: at least one token each
    thoughts: int = 0  # pieces of reasoning, beside the others
    _low: int = 0  # tokens of the prompt, at least; 0: not asked for yet
    _said_bytes: int = 0
    _thought_bytes: int = 0
    _told: Usage = _NOTHING

    def say(self, text: str) -> None:
        """What the answer holds, token by token or not."""
        self._said_bytes += len(text) if text.isascii() else len(text.encode())

    def said(self, text: str, pieces: int) -> Usage:
        """So many pieces of text, together this, while no counts have come: `say`, `low` and `rising` in one, because
        what is counted here alone rises."""
        self.pieces += pieces
        self._said_bytes += len(text) if text.isascii() else len(text.encode())
        self._told = told = Usage(self._low or self.low().input, 0, self.pieces, reasoning=self.thoughts)
        return told

    def think(self, text: str, pieces: int = 1) -> None:
        """So many pieces of reasoning."""
        self._thought_bytes += len(text) if text.isascii() else len(text.encode())
        self.thoughts += pieces

    def low(self) -> Usage:
        """At least this much, while the counts are still to come."""
        if not self._low:
            self._low = self._asked_bytes() // _BYTES_PER_TOKEN_MAX or 1
        return Usage(self._low, 0, self.pieces, reasoning=self.thoughts)

    def estimate(self) -> Usage:
        """About this much, when no counts came."""
        log.warning("usage_estimated", upstream=self._upstream)
        reasoning = max(self.thoughts, -(-self._thought_bytes // _BYTES_PER_TOKEN))
        output = max(self.pieces, -(-self._said_bytes // _BYTES_PER_TOKEN), 0 if reasoning else 1)
        return Usage(max(1, -(-self._asked_bytes() // _BYTES_PER_TOKEN)), 0, output, reasoning=reasoning)

    def reasoning(self, generated: int, told: int | None) -> int:
        """How much of what was generated was reasoning: at least as much as was told or heard."""
        heard = generated if told is None and self.thoughts and not self.pieces else self.thoughts
        return min(max(told or 0, heard), generated)

    def rising(self, usage: Usage) -> Usage:
        """These counts, or what was told before where they fell below it."""
        told = self._told
        prompt = usage.input + usage.cached_input + usage.cache_write  # `Usage.prompt`, for each read
        if (
            usage.output >= told.output
            and usage.reasoning >= told.reasoning
            and prompt >= told.input + told.cached_input + told.cache_write
        ):
            self._told = usage
            return usage
        if usage.prompt < told.prompt or usage.generated < told.generated:
            log.warning("usage_fell", upstream=self._upstream, told=told, now=usage)
        output, reasoning = risen(usage, told)
        # What a cache has to do with moves tokens from one bucket to another: only the prompt as a whole never falls.
        fresh = usage.input + max(0, told.prompt - usage.prompt)
        self._told = msgspec.structs.replace(usage, input=fresh, output=output, reasoning=reasoning)
        return self._told


def risen(now: Usage, told: Usage) -> tuple[int, int]:
    """Output and reasoning where neither is below what was told, and both together are no more than they must be.

    The greater of the totals stands; of it at least what was told remains each, and reasoning takes the rest first.
    """
    generated = max(now.generated, told.generated)
    reasoning = min(max(now.reasoning, told.reasoning), generated - told.output)
    return generated - reasoning, reasoning
