"""Sub-limits in memory: budgets in calendar windows, requests and tokens in any 60 seconds, requests at the same time.

Pure: the moment of a request is its open time and comes in with it. Owns what each limit has counted; the teller asks
for room before it grants, and tells it of every hold that begins, ends or comes to nothing. Nothing counts here that
is not a hold or a usage row, so nothing leaks, and a restart rebuilds all of it (ledger.limit_book).
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, assert_never

from steelyard.kernel import limits
from steelyard.kernel.calendar import Calendar, Every, Window, zone_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.left import Left, Rate
from steelyard.kernel.money import INT64_MAX, money_from_nano
from steelyard.kernel.records import HoldAsk, Limit, LimitKind, Scope, Use
from steelyard.kernel.settled import Opened, Settlement

WINDOW_NS = limits.RATE_WINDOW_S * NS_PER_S
Subject = tuple[str, int]
"""A scope's value, not the scope: an enum is slow to hash, and this is looked up for every request."""
_TENANT, _PROJECT, _KEY = Scope.TENANT.value, Scope.PROJECT.value, Scope.KEY.value


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

    def __init__(self, seed: Seed) -> None:
        self._limit = seed.limit
        self._amount = seed.limit.amount or 0
        self._at = sorted(opened_ns for opened_ns, _ in seed.recent)

    def room(self, ask: HoldAsk) -> Room:
        at, now_ns, most = self._at, ask.opened_ns, self._amount
        # One window more is kept than is counted: asks come in a slightly other order than they were opened in. What
        # lies ahead by a whole window was written by a clock that has been set back since.
        del at[bisect_left(at, now_ns + WINDOW_NS) :]
        del at[: bisect_right(at, now_ns - 2 * WINDOW_NS)]
        place = bisect_right(at, now_ns)
        for first in range(max(0, place - most), min(place, len(at) - most) + 1):
            begin = at[first] if first < place else now_ns
            end = now_ns if first + most == place else at[first + most - 1]
            if end - begin < WINDOW_NS:
                wait_ns = at[len(at) - most] + WINDOW_NS - now_ns
                text = f"{_named(self._limit)} may make {_many(most, 'request')} in {limits.RATE_WINDOW_S} seconds."
                return Room(refusal=_too_many(text, _seconds(wait_ns)))
        return UNLIMITED

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


class Tokens:
    """Tokens in the last 60 seconds: counted ones of requests opened in them, and reserved ones of all that run."""

    def __init__(self, seed: Seed) -> None:
        self._limit = seed.limit
        self._amount = seed.limit.amount or 0
        self._reserved = 0
        self._counted = sorted(seed.recent)
        self._sum = sum(tokens for _, tokens in self._counted)

    def room(self, ask: HoldAsk) -> Room:
        self._forget(ask.opened_ns)
        left = self._amount - self._reserved - self._sum
        floor = ask.prompt_tokens + ask.sequences * min(ask.max_tokens, 1)
        if left >= floor:
            most = (left - ask.prompt_tokens) // ask.sequences
            return Room(max_tokens=most, may_grow=self._reserved > 0 and most < ask.max_tokens)
        return Room(refusal=self._refusal(floor, floor - left, ask.opened_ns), may_grow=self._reserved > 0)

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


class Sublimits:
    """All limits of one teller."""

    def __init__(self) -> None:
        self._gauges: dict[Subject, dict[tuple[str, str], Gauge]] = {}
        self._tenants: dict[int, set[tuple[Subject, str, str]]] = {}

    def limited(self, tenant_id: int) -> bool:
        """Whether the tenant, or a project or key of his, has any limit."""
        return tenant_id in self._tenants

    def put(self, seed: Seed, running: Iterable[tuple[int, Use, int]]) -> None:
        """Set the limit anew, or lift it. `running`: tenant, use and money of every open hold."""
        limit = seed.limit
        subject, kind = (limit.scope.value, limit.subject_id), (limit.kind.value, limit.every)
        of_tenant = self._tenants.setdefault(limit.tenant_id, set())
        if limit.amount is None:
            self._gauges.get(subject, {}).pop(kind, None)
            of_tenant.discard((subject, *kind))
            if not of_tenant:
                del self._tenants[limit.tenant_id]
            return
        gauge = _gauge(seed)
        for tenant_id, use, money_nano in running:
            if subject in _subjects(tenant_id, use.project_id, use.key_id):
                gauge.take(use, money_nano)
        self._gauges.setdefault(subject, {})[kind] = gauge
        of_tenant.add((subject, *kind))

    def room(self, ask: HoldAsk) -> Room:
        """What all limits of the request leave to it together. Of several refusals, the one that lasts longest."""
        if ask.tenant_id not in self._tenants:
            return UNLIMITED
        rooms = [gauge.room(ask) for gauge in self._of(ask.tenant_id, ask.project_id, ask.key_id)]
        if not rooms:
            return UNLIMITED
        refusals = [room.refusal for room in rooms if room.refusal is not None]
        return Room(
            min(room.money_nano for room in rooms),
            min(room.max_tokens for room in rooms),
            max(refusals, key=_lasts) if refusals else None,
            all(room.may_grow for room in rooms if room.refusal is not None)
            if refusals
            else any(room.may_grow for room in rooms),
        )

    def left(self, ask: HoldAsk, available_nano: int) -> Left:
        """What the asker's limits per minute leave to him."""
        if ask.tenant_id not in self._tenants:
            return Left(available_nano)
        gauges = self._of(ask.tenant_id, ask.project_id, ask.key_id)
        requests = tokens = None
        for gauge in gauges:
            if isinstance(gauge, Requests):
                requests = _least(requests, gauge.rate(ask.opened_ns))
            elif isinstance(gauge, Tokens):
                tokens = _least(tokens, gauge.rate(ask.opened_ns))
        return Left(available_nano, requests, tokens)

    def take(self, tenant_id: int, use: Use, money_nano: int) -> None:
        """A hold begins."""
        for gauge in self._of(tenant_id, use.project_id, use.key_id):
            gauge.take(use, money_nano)

    def release(self, tenant_id: int, use: Use, money_nano: int) -> None:
        """A hold came to nothing."""
        for gauge in self._of(tenant_id, use.project_id, use.key_id):
            gauge.release(use, money_nano)

    def settle(self, tenant_id: int, use: Use | None, money_nano: int, used: Use, charged_nano: int) -> None:
        """A request has ended; `use` and `money_nano` are those of its hold, if it had one."""
        for gauge in self._of(tenant_id, used.project_id, used.key_id):
            gauge.settle(use, money_nano, used, charged_nano)

    def _of(self, tenant_id: int, project_id: int, key_id: int) -> Sequence[Gauge]:
        if tenant_id not in self._tenants:
            return ()
        found: list[Gauge] = []
        for subject in _subjects(tenant_id, project_id, key_id):
            gauges = self._gauges.get(subject)
            if gauges:
                found += gauges.values()
        return found


def use_of(ask: HoldAsk, max_tokens: int) -> Use:
    """What the request takes when so many output tokens per sequence are granted."""
    return Use(ask.project_id, ask.key_id, ask.opened_ns, ask.prompt_tokens + max_tokens * ask.sequences)


def running(opened: Opened) -> Use:
    """What an open request takes, by its record. How long its prompt may be only its worker knows, and tells again."""
    return Use(opened.project_id, opened.key_id, opened.opened_ns, opened.max_tokens * opened.sequences)


def used_of(settlement: Settlement) -> Use:
    """What sub-limits count of a request that has ended."""
    opened = settlement.opened
    return Use(opened.project_id, opened.key_id, opened.opened_ns, settlement.closed.usage.total)


def _gauge(seed: Seed) -> Gauge:
    match seed.limit.kind:
        case LimitKind.BUDGET:
            return Budget(seed)
        case LimitKind.RPM:
            return Requests(seed)
        case LimitKind.TPM:
            return Tokens(seed)
        case LimitKind.CONCURRENCY:
            return Concurrency(seed)
        case _:
            assert_never(seed.limit.kind)


def _subjects(tenant_id: int, project_id: int, key_id: int) -> tuple[Subject, Subject, Subject]:
    return (_TENANT, tenant_id), (_PROJECT, project_id), (_KEY, key_id)


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


def _lasts(refusal: CallerError) -> int:
    return INT64_MAX if refusal.retry_after_s is None else refusal.retry_after_s


def _least(one: Rate | None, other: Rate) -> Rate:
    return other if one is None or other.left < one.left else one
