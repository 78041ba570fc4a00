"""The reference ledger: what customers know. What they paid in, what they were promised, which bytes reached them.

Written against docs/explain/ledger.md alone; uses nothing of the program but its records. It computes prices with
fractions of its own, and says in words where the books differ from what customers saw.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from tests.simulator.bounds import Bound, exceeded
from tests.simulator.counted import Counted
from tests.simulator.vendor import Said, least

from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Quote
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import UsageRow

NOTHING = Usage()
WHOLE = ("complete", "money_ended")
SETTLED_NS = 20 * NS_PER_MS  # a close is announced, synced (5 ms) and posted; the books wait for it


@dataclass(slots=True)
class Request:
    """One request as its customer saw it."""

    tenant_id: int
    want_nano: int
    asked_ns: int
    paid_nano: int  # what had certainly been paid in when it was asked
    hold_nano: int | None = None
    price: Tariff | None = None
    left: list[Usage] = field(default_factory=list)  # the counts of each piece that left user space
    end: str = ""  # how it ended for the customer; "worker_died" when the line went dead
    ended_ns: int = 0
    durable: int = 0  # pieces that had left when the cells were last on the medium
    firm: bool = False  # its close is on the medium
    vague: bool = False  # a power loss came before that
    place: int = 0  # in the order in which requests were let in
    bound: int | None = None  # the limit that certainly bounded it
    owes_nano: int = 0  # the least that must be set aside for it


def price_nano(usage: Usage, price: Tariff) -> int:
    """Tokens written to a cache have no line in these books, and are priced like fresh ones."""
    lines = {line.meter: line for line in price.lines}
    counts = {
        "input": usage.input, "cached_input": usage.cached_input, "cache_write": usage.cache_write,
        "output": usage.output, "reasoning": usage.reasoning,
    }  # fmt: skip
    like = {"cache_write": "input", "reasoning": "output"}
    priced = ((lines.get(meter) or lines[like[meter]], count) for meter, count in counts.items())
    return sum(round(Fraction(count * line.pico, line.per * 1000)) for line, count in priced)


def sold(usage: Usage, end: str) -> Usage:
    """An answer cut before its first output token is worth nothing."""
    if not usage.generated and end not in WHOLE:
        return NOTHING
    return _tokens(usage)


def _tokens(of: Usage | UsageRow) -> Usage:
    return Usage(of.input, of.cached_input, of.output, cache_write=of.cache_write, reasoning=of.reasoning)


class Oracle:
    """Everything that happened, from outside."""

    def __init__(self) -> None:
        self.requests: dict[bytes, Request] = {}
        self.confirmed: dict[int, int] = {}  # tenant → money that certainly arrived
        self.sent: dict[int, int] = {}  # tenant → money that may have arrived
        self.owed: dict[int, int] = {}  # tenant → the least that holds and charges must have set aside
        self.recent: dict[int, set[bytes]] = {}  # tenant → requests that may still hold money
        self.spent: dict[int, int] = {}  # tenant → the most that requests no longer recent can have cost
        self.bounds: dict[int, Bound] = {}  # tenant → his limit
        self.running: dict[int, set[bytes]] = {}  # tenant → requests let in that have not ended
        self.let_in: dict[int, int] = {}  # tenant → how many were
        self.keys: dict[tuple[int, str], list[bytes]] = {}  # (tenant, idempotency key) → its requests
        self.answers: dict[tuple[int, str], set[bytes]] = {}  # … → whole answers that were given under it
        self.above_cap: set[bytes] = set()  # requests whose upstream gave more than it was asked for
        self.unweighed: set[bytes] = set()  # requests whose upstream told no counts
        self.counted = Counted(self)
        self.said = Said()
        self.refused = 0
        self.faults: list[str] = []

    def fault(self, what: str) -> None:
        self.faults.append(what)

    def finding(self, invariant: str, detail: str) -> None:
        """A complaint of `verify`. That an upstream gave more than it was asked for is one it should make."""
        rest = [
            one
            for one in detail.split("; ")
            if not ("output tokens of at most" in one and bytes.fromhex(one.split()[0]) in self.above_cap)
        ]
        if rest and not (len(rest) == 1 and rest[0].startswith("and ")):
            self.fault(f"{invariant}: {'; '.join(rest)}")

    def asked(self, request_id: bytes, tenant_id: int, want_nano: int, now_ns: int) -> None:
        self.requests[request_id] = Request(tenant_id, want_nano, now_ns, self.confirmed.get(tenant_id, 0))
        self.recent.setdefault(tenant_id, set()).add(request_id)

    def promised(self, request_id: bytes, quote: Quote) -> None:
        """Nobody overspends: what is promised and owed never exceeds what was paid in."""
        one = self.requests[request_id]
        one.hold_nano, one.price = quote.hold_nano, quote.price
        self._owes(one, quote.hold_nano)
        self._let_in(request_id, one)
        owed = self.owed[one.tenant_id]
        if owed > self.sent.get(one.tenant_id, 0) + self.counted.beside(one.tenant_id):
            self.fault(f"overspent: tenant {one.tenant_id} was promised {owed}, paid {self.sent.get(one.tenant_id)}")

    def _let_in(self, request_id: bytes, one: Request) -> None:
        tenant_id = one.tenant_id
        self.let_in[tenant_id] = one.place = self.let_in.get(tenant_id, 0) + 1
        running = self.running.setdefault(tenant_id, set())
        if not one.end:
            running.add(request_id)
        bound = self.bounds.get(tenant_id)
        if bound is None:
            return
        one.bound = bound.of(one)
        if bound.kind == "concurrency" and one.bound is not None and len(running) > one.bound:
            self.fault(f"tenant {tenant_id} may run {one.bound} requests and runs {len(running)}")

    def left_user_space(self, request_id: bytes, usage: Usage) -> None:
        self.requests[request_id].left.append(usage)

    def ended(self, request_id: bytes, end: str, now_ns: int) -> None:
        one = self.requests[request_id]
        if one.end:
            return
        one.end, one.ended_ns = end, now_ns
        self.running.get(one.tenant_id, set()).discard(request_id)
        if one.hold_nano is not None and not one.vague:
            self._owes(one, min(one.hold_nano, self._charge(one, -1), self._charge(one, -2)))

    def refuse(self, request_id: bytes, code: str, floor_nano: int, calm: bool, now_ns: int) -> None:
        """No solvent customer is refused, and none whose limit has room: counted at the least he can have had. What
        requests took that had ended a moment before he asked is his again; in troubled times (not `calm`) later."""
        me = self.requests[request_id]
        self.refused += 1
        self.ended(request_id, "refused", now_ns)
        if not calm:
            return
        recent = self.recent[me.tenant_id]
        for other in [other for other in recent if self.requests[other].end]:
            one = self.requests[other]
            if one.ended_ns < me.asked_ns - SETTLED_NS:
                recent.discard(other)
                self.spent[me.tenant_id] = self.spent.get(me.tenant_id, 0) + self._most(one)
        tied = sum(self._tied(self.requests[other]) for other in recent if other != request_id)
        gone = self.spent.get(me.tenant_id, 0) + tied
        bound = self.bounds.get(me.tenant_id)
        most = bound.of(me) if bound is not None and not bound.pending else None  # which amount refused him?
        if code in {"insufficient_quota", "money_held"}:
            if me.paid_nano - gone >= floor_nano:
                self.fault(f"solvent customer refused: {request_id.hex()} of {me.tenant_id} had {me.paid_nano - gone}")
        elif bound is None:
            self.fault(f"{request_id.hex()} got {code}, its tenant has no limit")
        elif most is None:
            return
        elif bound.kind == "budget" and most - gone >= floor_nano:
            self.fault(f"{request_id.hex()} was refused, the budget had {most - gone}")
        elif bound.kind == "concurrency" and len(recent) <= most:
            self.fault(f"{request_id.hex()} was refused, {len(recent) - 1} of {most} others may have run")
        elif bound.kind == "rpm" and self.let_in.get(me.tenant_id, 0) + len(recent) <= most:
            self.fault(f"{request_id.hex()} was refused after {self.let_in.get(me.tenant_id, 0)} of {most} requests")

    def answered(self, place: tuple[int, str], body: bytes) -> None:
        """A whole answer is given under a key."""
        self.answers.setdefault(place, set()).add(body)

    def replayed(self, place: tuple[int, str], body: bytes) -> None:
        if body not in self.answers.get(place, ()):
            self.fault(f"the key {place[1]} of tenant {place[0]} was replayed with an answer that nobody gave")

    def lose_power(self) -> None:
        for one in self.requests.values():
            if not one.firm and one.hold_nano is not None:
                one.vague = True
                self._owes(one, 0)

    def check(self, rows: Iterable[UsageRow]) -> list[str]:
        """Every row is what its customer got, every request has its row. For wallets see `counted`."""
        rows = list(rows)
        seen: set[bytes] = set()
        for row in rows:
            one = self.requests.get(row.request_id)
            if one is None or row.request_id in seen:
                self.fault(f"{row.request_id.hex()} is in the books {'twice' if one else 'and was never asked'}")
                continue
            seen.add(row.request_id)
            self._check_row(row, one)
        for request_id, one in self.requests.items():
            if one.hold_nano is not None and not one.vague and request_id not in seen:
                self.fault(f"{request_id.hex()} was served ({one.end}) and is not in the books")
        charged = {row.request_id for row in rows if row.charge_nano}
        for (tenant_id, key), request_ids in self.keys.items():
            if len(charged.intersection(request_ids)) > 1:
                self.fault(f"the key {key} of tenant {tenant_id} was charged {len(charged & set(request_ids))} times")
        careless = {self.requests[request_id].tenant_id for request_id in self.above_cap}
        for tenant_id, bound in self.bounds.items():
            if tenant_id not in careless:
                mine = [row for row in rows if row.tenant_id == tenant_id]
                self.faults += exceeded(bound, mine, self.requests)
        return self.faults

    def _check_row(self, row: UsageRow, one: Request) -> None:
        name = f"{row.request_id.hex()} ({row.end}, customer saw {one.end})"
        billed = _tokens(row)
        reads = [NOTHING, *one.left]
        unweighed = row.request_id in self.unweighed
        if (row.estimated and not unweighed) or (unweighed and not row.estimated and row.end in WHOLE):
            self.fault(f"{name} says of its counts that they are {'' if row.estimated else 'not '}estimated")
        if one.price is not None and (row.price_id, row.hold_nano) != (one.price.id, one.hold_nano):
            self.fault(f"{name} was not booked at the terms that were promised")
        if one.price is not None and row.charge_nano != price_nano(billed, one.price):
            self.fault(f"{name} is charged {row.charge_nano}, its usage costs {price_nano(billed, one.price)}")
        if one.vague:
            exact = {sold(read, row.end) for read in reads[max(0, one.durable - 1) :]}
            gone = billed == NOTHING and row.short_by_one_read  # its cell had gone on to another request
            if billed not in exact and not gone:
                self.fault(f"{name} is billed {billed}, but {one.left[-1:]} left, {one.durable} pieces of it durable")
        elif billed != sold(reads[-1], row.end):
            if billed != sold(reads[-2], row.end) if len(reads) > 1 else True:
                self.fault(f"{name} is billed {billed}, but {one.left[-2:]} left user space")
            elif not row.short_by_one_read:
                self.fault(f"{name} is one read short and does not say so")
        if not one.vague and not least(row, NOTHING if row.short_by_one_read else reads[-1]):
            self.fault(f"{name} cost us less than {reads[-1]}, which left user space")

    def _owes(self, one: Request, amount_nano: int) -> None:
        self.owed[one.tenant_id] = self.owed.get(one.tenant_id, 0) + amount_nano - one.owes_nano
        one.owes_nano = amount_nano

    def _charge(self, one: Request, read: int) -> int:
        usage = one.left[read] if len(one.left) >= -read else NOTHING
        return price_nano(sold(usage, one.end), one.price) if one.price else 0

    def _most(self, one: Request) -> int:
        return min(one.hold_nano, self._charge(one, -1)) if one.hold_nano is not None else 0

    def _tied(self, one: Request) -> int:
        return one.want_nano if one.hold_nano is None else one.hold_nano
