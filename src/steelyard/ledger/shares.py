"""What a lease has of limits per minute: requests and tokens that a worker may let in by itself, key by key.

Owns both ends: `Shares` beside the teller, `Room` in the worker. Pure. What is lent counts in every window of the
limits it is of (ledger.gauges.Aside) until a request has used it or it comes back, so that whenever it is used, nobody
gets a request or a token more than his limits say.
"""

from collections.abc import Iterator

from steelyard.kernel.frozen import JournalRecord
from steelyard.kernel.left import Left, Rate
from steelyard.kernel.records import HoldAsk


class Share(JournalRecord, frozen=True):
    """Requests and tokens of a key's limits. `left`: what they leave beside it, to be told to customers."""

    project_id: int
    key_id: int
    requests: int
    tokens: int
    left: Left | None = None


class Shares:
    """The teller's end: what one lease has, and no request has used yet."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[tuple[int, int], tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def __iter__(self) -> Iterator[Share]:
        for (project_id, key_id), (requests, tokens) in self._of.items():
            yield Share(project_id, key_id, requests, tokens)

    def add(self, share: Share) -> None:
        requests, tokens = self._of.get((share.project_id, share.key_id), (0, 0))
        self._of[share.project_id, share.key_id] = requests + share.requests, tokens + share.tokens

    def take(self, project_id: int, key_id: int, requests: int, tokens: int) -> Share | None:
        """So much of it, or what there is, as negative figures; None when the lease has nothing of the key's."""
        has = self._of.get((project_id, key_id))
        if has is None:
            return None
        requests, tokens = min(requests, has[0]), min(tokens, has[1])
        rest = has[0] - requests, has[1] - tokens
        if rest == (0, 0):
            del self._of[project_id, key_id]
        else:
            self._of[project_id, key_id] = rest
        return Share(project_id, key_id, -requests, -tokens)


class Room:
    """The worker's end: what it may still let in for one key."""

    __slots__ = ("_left", "_low", "_requests", "_tokens", "_used")

    def __init__(self) -> None:
        self._requests = self._tokens = 0
        self._low = (0, 0)  # below either more is asked for
        self._left = Left(None)
        self._used = (0, 0)  # requests and tokens let in since the books said what is left

    @property
    def low(self) -> bool:
        return self._requests < self._low[0] or self._tokens < self._low[1]

    def add(self, share: Share) -> None:
        self._requests += share.requests
        self._tokens += share.tokens
        self._low = share.requests // 2, share.tokens // 2
        if share.left is not None:
            self._left, self._used = share.left, (0, 0)

    def draw(self, ask: HoldAsk) -> bool:
        """Let the request in, if there is room for it."""
        tokens = tokens_of(ask, ask.max_tokens)
        if self._requests < 1 or self._tokens < tokens:
            return False
        self._requests -= 1
        self._tokens -= tokens
        self._used = self._used[0] + 1, self._used[1] + tokens
        return True

    def undo(self, ask: HoldAsk) -> None:
        """The request came to nothing."""
        self._requests += 1
        self._tokens += tokens_of(ask, ask.max_tokens)

    def ended(self, ask: HoldAsk, used_tokens: int) -> None:
        """It has used so many tokens: fewer than it might, or more where its upstream went above its cap."""
        self._tokens += tokens_of(ask, ask.max_tokens) - used_tokens

    def empty(self, project_id: int, key_id: int) -> Share | None:
        """All of it, to be given back; None when there is nothing."""
        self._tokens = max(0, self._tokens)
        if not self._requests and not self._tokens:
            return None
        share = Share(project_id, key_id, self._requests, self._tokens)
        self._requests = self._tokens = 0
        self._low = (0, 0)
        return share

    def left(self) -> Left:
        """What the limits leave, as far as this worker knows: the books' word, less what it let in since."""
        said, (requests, tokens) = self._left, self._used
        return Left(None, _less(said.requests, requests), _less(said.tokens, tokens))


def tokens_of(ask: HoldAsk, max_tokens: int) -> int:
    """What the request may use of limits, when so many output tokens per sequence are granted; see `Use.tokens`."""
    return ask.prompt_tokens + max_tokens * ask.sequences


def _less(rate: Rate | None, used: int) -> Rate | None:
    return None if rate is None else Rate(rate.most, max(0, rate.left - used), rate.more_at_ns)
