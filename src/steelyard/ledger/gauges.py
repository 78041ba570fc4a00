"""What one sub-limit has counted: budgets in calendar windows, requests and tokens in any 60 seconds, requests at once.

Pure: the moment of a request is its open time and comes in with it. What is lent of a limit (`Aside`, ledger.shares)
counts in every window until a request takes it or it comes back.
"""

from bisect import bisect_left, bisect_right, insort
from datetime import datetime
from typing import NamedTuple, Protocol, assert_never

from steelyard.kernel import limits
from steelyard.kernel.calendar import Calendar, Every, Window, zone_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.left import Rate
from steelyard.kernel.money import INT64_MAX, money_from_nano
from steelyard.kernel.records import HoldAsk, Limit, LimitKind, Use

WINDOW_NS = limits.RATE_WINDOW_S * NS_PER_S


class Room(NamedTuple):
    """What limits leave to a request: money, output tokens per sequence, or why they leave nothing.

    `may_grow`: something that runs stands in the way, so settling what has just finished may make room.
    """

    money_nano: int = INT64_MAX
    max_tokens: int = INT64_MAX
    refusal: CallerError | None = None
    may_grow: bool = False


UNLIMITED = Room()


class Seed(NamedTuple):
    """A limit and what the books say of the time before: the start of a window → spent in it, and (opened, tokens) of
    each request of the last minutes."""

    limit: Limit
    spent: tuple[tuple[int, int], ...] = ()
    recent: tuple[tuple[int, int], ...] = ()


class Aside:
    """What is lent of the limits per minute of one subject: requests and tokens nobody has taken yet."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = 0


class Gauge(Protocol):
    """What one limit has counted. `money` is what is or was set aside for the request."""

    def room(self, ask: HoldAsk) -> Room: ...
    def take(self, use: Use, money_nano: int) -> None: ...
    def release(self, use: Use, money_nano: int) -> None: ...
    def settle(self, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        """The request of the hold `use` (None: there was none) has ended with `used`."""


class Budget:
    """Money in calendar windows: spent + held ≤ amount, by the window a request was opened in."""

    def __init__(self, seed: Seed) -> None:
        self._limit = seed.limit
        self._amount = seed.limit.amount or 0
        self._calendar = Calendar(Every(seed.limit.every), seed.limit.zone, seed.limit.week_start)
        self._window = Window(0, 0)
        self._spent = dict(seed.spent)
        self._held: dict[int, int] = {}

    def room(self, ask: HoldAsk) -> Room:
        start = self._start(ask.opened_ns)
        held = self._held.get(start, 0)
        left = max(0, self._amount - self._spent.get(start, 0) - held)
        if left >= ask.want_nano:
            return Room(left)
        return Room(left, refusal=None if left >= ask.floor_nano else self._refusal(), may_grow=held > 0)

    def take(self, use: Use, money_nano: int) -> None:
        start = self._start(use.opened_ns)
        self._held[start] = self._held.get(start, 0) + money_nano

    def release(self, use: Use, money_nano: int) -> None:
        self.take(use, -money_nano)

    def settle(self, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        if use is not None:
            self.release(use, money_nano)
        start = self._start(used.opened_ns)
        self._spent[start] = self._spent.get(start, 0) + charged_nano

    def _start(self, moment_ns: int) -> int:
        if not self._window.start_ns <= moment_ns < self._window.end_ns:
            self._window = self._calendar.window(moment_ns)
            if len(self._spent) + len(self._held) > limits.BUDGET_WINDOWS_KEPT:
                self._forget()
        return self._window.start_ns

    def _forget(self) -> None:
        """Drop the oldest windows. More than one is kept because a clock may step back."""
        for start in sorted(self._spent)[: -limits.BUDGET_WINDOWS_KEPT // 2]:
            del self._spent[start]
        for start in [start for start, held in self._held.items() if not held and start != self._window.start_ns]:
            del self._held[start]

    def _refusal(self) -> CallerError:
        limit = self._limit
        anew = datetime.fromtimestamp(self._window.end_ns // NS_PER_S, zone_of(limit.zone)).isoformat()
        return CallerError(
            402,
            "budget_exceeded",
            f"What is left of the budget of {money_from_nano(self._amount, limit.currency)} a {limit.every} of "
            f"{_named(limit)} does not cover this request. It begins anew at {anew}; until then send less, or ask "
            "your operator.",
        )


class Requests:
    """Requests in any 60 seconds: of the moments of any `amount` + 1 requests, the first and last are 60 s apart."""

    def __init__(self, seed: Seed, aside: Aside) -> None:
        self._limit = seed.limit
        self._aside = aside
        self._amount = seed.limit.amount or 0
        self._at = sorted(opened_ns for opened_ns, _ in seed.recent)

    def room(self, ask: HoldAsk) -> Room:
        at, now_ns, most = self._at, ask.opened_ns, self._amount - self._aside.requests
        # One window more is kept than is counted: asks come in a slightly other order than they were opened in. What
        # lies ahead by a whole window was written by a clock that has been set back since.
        del at[bisect_left(at, now_ns + WINDOW_NS) :]
        del at[: bisect_right(at, now_ns - 2 * WINDOW_NS)]
        if most < 1:
            return Room(refusal=self._refusal(limits.RETRY_AFTER_S))
        place = bisect_right(at, now_ns)
        for first in range(max(0, place - most), min(place, len(at) - most) + 1):
            begin = at[first] if first < place else now_ns
            end = now_ns if first + most == place else at[first + most - 1]
            if end - begin < WINDOW_NS:
                wait_ns = at[len(at) - most] + WINDOW_NS - now_ns
                return Room(refusal=self._refusal(_seconds(wait_ns)))
        return UNLIMITED

    def free(self, now_ns: int) -> int:
        """How many more may be lent: whenever they are made from now on, nobody makes too many."""
        return self._amount - self._aside.requests - (len(self._at) - bisect_right(self._at, now_ns - WINDOW_NS))

    def take(self, use: Use, money_nano: int) -> None:
        insort(self._at, use.opened_ns)

    def release(self, use: Use, money_nano: int) -> None:
        place = bisect_left(self._at, use.opened_ns)
        if self._at[place : place + 1] == [use.opened_ns]:
            del self._at[place]

    def settle(self, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        if use is None:
            self.take(used, money_nano)

    def rate(self, now_ns: int) -> Rate:
        at = self._at
        first = bisect_right(at, now_ns - WINDOW_NS)
        more_at_ns = at[first] + WINDOW_NS if first < len(at) else now_ns
        return Rate(self._amount, max(0, self._amount - (len(at) - first)), more_at_ns)

    def _refusal(self, retry_after_s: int) -> CallerError:
        text = f"{_named(self._limit)} may make {_many(self._amount, 'request')} in {limits.RATE_WINDOW_S} seconds."
        return _too_many(text, retry_after_s)


class Tokens:
    """Tokens in the last 60 seconds: counted ones of requests opened in them, and reserved ones of all that run."""

    def __init__(self, seed: Seed, aside: Aside) -> None:
        self._limit = seed.limit
        self._aside = aside
        self._amount = seed.limit.amount or 0
        self._reserved = 0
        self._counted = sorted(seed.recent)
        self._sum = sum(tokens for _, tokens in self._counted)

    def room(self, ask: HoldAsk) -> Room:
        left = self.free(ask.opened_ns)
        floor = ask.prompt_tokens + ask.sequences * min(ask.max_tokens, 1)
        if left >= floor:
            most = (left - ask.prompt_tokens) // ask.sequences
            return Room(max_tokens=most, may_grow=self._reserved > 0 and most < ask.max_tokens)
        return Room(refusal=self._refusal(floor, floor - left, ask.opened_ns), may_grow=self._reserved > 0)

    def free(self, now_ns: int) -> int:
        """What neither was used in the last 60 seconds, nor is reserved or lent."""
        self._forget(now_ns)
        return self._amount - self._reserved - self._sum - self._aside.tokens

    def take(self, use: Use, money_nano: int) -> None:
        self._reserved += use.tokens

    def release(self, use: Use, money_nano: int) -> None:
        self._reserved -= use.tokens

    def settle(self, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        if use is not None:
            self.release(use, money_nano)
        if used.tokens:
            insort(self._counted, (used.opened_ns, used.tokens))
            self._sum += used.tokens

    def rate(self, now_ns: int) -> Rate:
        """What runs leaves the window a window after it began, so no sooner than its oldest does."""
        self._forget(now_ns)
        more_at_ns = (self._counted[0][0] if self._counted else now_ns) + WINDOW_NS
        return Rate(self._amount, max(0, self._amount - self._reserved - self._sum), more_at_ns)

    def _forget(self, now_ns: int) -> None:
        """Drop what is a window old, or a window ahead (a clock was set back)."""
        counted = self._counted
        old = bisect_right(counted, (now_ns - WINDOW_NS, INT64_MAX))
        if old:
            self._sum -= sum(tokens for _, tokens in counted[:old])
            del counted[:old]
        if counted and counted[-1][0] >= now_ns + WINDOW_NS:
            ahead = bisect_left(counted, (now_ns + WINDOW_NS, 0))
            self._sum -= sum(tokens for _, tokens in counted[ahead:])
            del counted[ahead:]

    def _refusal(self, floor: int, short: int, now_ns: int) -> CallerError:
        text = f"{_named(self._limit)} may use {_many(self._amount, 'token')} in {limits.RATE_WINDOW_S} seconds"
        if floor > self._amount:
            text = f"This request needs at least {_many(floor, 'token')}, and {text}. Send less, or ask your operator."
            return CallerError(429, "rate_limit_exceeded", text)
        wait_ns = 0
        for opened_ns, tokens in self._counted:
            if short <= 0:
                break
            short -= tokens
            wait_ns = opened_ns + WINDOW_NS - now_ns
        return _too_many(f"{text}, requests that still run included.", _seconds(wait_ns))


class Concurrency:
    """Requests at the same time: open holds."""

    def __init__(self, seed: Seed) -> None:
        self._limit = seed.limit
        self._amount = seed.limit.amount or 0
        self._open = 0

    def room(self, ask: HoldAsk) -> Room:
        if self._open < self._amount:
            return UNLIMITED
        text = f"{_named(self._limit)} may run {_many(self._amount, 'request')} at the same time."
        return Room(refusal=_too_many(text, limits.RETRY_AFTER_S), may_grow=True)

    def take(self, use: Use, money_nano: int) -> None:
        self._open += 1

    def release(self, use: Use, money_nano: int) -> None:
        self._open -= 1

    def settle(self, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        if use is not None:
            self._open -= 1


def gauge(seed: Seed, aside: Aside) -> Gauge:
    """That of a limit whose subject has lent so much."""
    match seed.limit.kind:
        case LimitKind.BUDGET:
            return Budget(seed)
        case LimitKind.RPM:
            return Requests(seed, aside)
        case LimitKind.TPM:
            return Tokens(seed, aside)
        case LimitKind.CONCURRENCY:
            return Concurrency(seed)
        case _:
            assert_never(seed.limit.kind)


def _named(limit: Limit) -> str:
    return f"the {limit.scope.value} {limit.name!r}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _too_many(text: str, retry_after_s: int) -> CallerError:
    wait = f"{text[0].upper()}{text[1:]} Try again in {_many(retry_after_s, 'second')}."
    return CallerError(429, "rate_limit_exceeded", wait, retry_after_s=retry_after_s)


def _seconds(wait_ns: int) -> int:
    """Whole seconds, rounded up, at least one."""
    return max(1, -(-wait_ns // NS_PER_S))
