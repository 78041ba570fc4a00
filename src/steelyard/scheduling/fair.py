"""Whose turn it is among tenants who wait: that of him who was served least, in tokens.

Each tenant has a count of the tokens that were promised to him; one who comes back begins at the least of those who
wait, so that nobody saves turns up. The fairness of virtual token counters (Sheng et al., OSDI 2024). Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.scheduling.wish import Wish


@dataclass(slots=True)
class Waiting:
    """A wish in a queue."""

    number: int
    wish: Wish
    since_ns: int
    held: bool = False  # until a leader has computed what both begin with
    overdue: bool = False  # it has waited long enough for leaders


@dataclass(slots=True)
class _Line:
    served: int = 0  # tokens
    tokens: int = 0  # of those that wait
    waiting: dict[int, Waiting] = field(default_factory=dict)  # by number: in the order of their coming


class FairQueue:
    """One lane: a line for each tenant who waits. `by_deadline`: his most urgent first, not his first."""

    def __init__(self, *, by_deadline: bool = False) -> None:
        self._by_deadline = by_deadline
        self._lines: dict[int, _Line] = {}
        self._served: dict[int, int] = {}  # of tenants who do not wait now
        self._at = 0  # the least that anybody who waits has had
        self.count = 0

    def put(self, one: Waiting) -> None:
        """At the end of its tenant's line."""
        tenant = one.wish.tenant_id
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(max(self._served.pop(tenant, 0), self._at))
        line.waiting[one.number] = one
        line.tokens += one.wish.tokens
        self.count += 1

    def take(self, one: Waiting, *, served: bool) -> None:
        """Out of its line, because it starts (`served`) or has gone."""
        tenant = one.wish.tenant_id
        line = self._lines[tenant]
        del line.waiting[one.number]
        line.tokens -= one.wish.tokens
        self.count -= 1
        if served:
            self._at = max(self._at, line.served)
            line.served += one.wish.tokens
        if not line.waiting:
            del self._lines[tenant]
            self._served[tenant] = line.served
            if len(self._served) > limits.TENANTS_SERVED_KEPT_MAX:
                del self._served[next(iter(self._served))]

    def give_back(self, tenant_id: int, tokens: int) -> None:
        """He was promised so many that he has not used."""
        line = self._lines.get(tenant_id)
        if line is not None:
            line.served -= tokens
        elif tenant_id in self._served:
            self._served[tenant_id] -= tokens

    def waits_of(self, tenant_id: int) -> int:
        line = self._lines.get(tenant_id)
        return len(line.waiting) if line is not None else 0

    def before(self, wish: Wish) -> int:
        """About so many tokens start before this wish, if it comes now: those of its tenant, and of every other one
        no more than he would have had with it."""
        line = self._lines.get(wish.tenant_id)
        own = line.tokens if line is not None else 0
        share = own + wish.tokens
        return own + sum(min(one.tokens, share) for one in self._lines.values() if one is not line)

    def in_turn(self) -> Iterator[Waiting]:
        """All that wait: the tenant first who was served least, each in his own order. Change nothing meanwhile."""
        for line in sorted(self._lines.values(), key=lambda line: line.served):
            if self._by_deadline:
                yield from sorted(line.waiting.values(), key=due_ns)
            else:
                yield from line.waiting.values()

    def all(self) -> Iterator[Waiting]:
        for line in self._lines.values():
            yield from line.waiting.values()


def due_ns(one: Waiting) -> int:
    """When it must have ended."""
    return one.since_ns + one.wish.within_s * NS_PER_S
