"""How an offer has been doing: latencies, failures, its circuit breaker, and how long it wants to be left alone.

One state per offer and worker, in memory and of fixed size. Pure: time comes in as nanoseconds that never step back.
Knows no money and no socket; what an error means is data on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.choice import Load
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Order, Quote
from steelyard.kernel.tariff import Tariff
from steelyard.routing.pace import Bucket

ELSEWHERE = frozenset(Fault) - {Fault.BAD_REQUEST, Fault.CONTENT}
"""After these another offer may do better. What is wrong or forbidden here is not tried until somebody takes it."""
ACCOUNT = frozenset({Fault.AUTH, Fault.NO_MONEY})
"""What is true of all that an upstream offers us, until a person mends it."""
_INNOCENT = frozenset({Fault.BAD_REQUEST, Fault.NOT_CARRIED, Fault.CONTENT})
_PARTS = 1024  # what rates and steps are counted in
_STEPS = _PARTS * _PARTS


class Latency:
    """The median and the 95th percentile of what was measured lately, in nanoseconds; 0 when nothing was.

    Each sample moves a quantile by a small part of itself, the further the rarer its side is: a quantile that is right
    stands still on average, and what was measured long ago has no weight (stochastic approximation).
    """

    __slots__ = ("count", "noted_ns", "p50", "p95")

    def __init__(self) -> None:
        self.p50 = self.p95 = self.count = 0
        self.noted_ns = 0

    def note(self, sample_ns: int, now_ns: int) -> None:
        """One more; when nothing was measured for long, it is the first again."""
        self.count = 1 if now_ns - self.noted_ns > limits.LATENCY_KEPT_S * NS_PER_S else self.count + 1
        self.noted_ns = now_ns
        if self.count == 1:
            self.p50 = self.p95 = max(1, sample_ns)
            return
        step = 256 if self.count < 16 else 96  # of 1024: coarse at first, then the last hundred samples count
        p50, p95 = self.p50, self.p95  # 512 and 973 of 1024 samples should be below them
        p50 += p50 * step * (512 if sample_ns > p50 else -512) // _STEPS
        p95 += p95 * step * (973 if sample_ns > p95 else -51) // _STEPS
        self.p50 = p50 = p50 if p50 > 1 else 1
        self.p95 = p95 if p95 > p50 else p50

    def median(self, now_ns: int) -> int:
        """0 when nothing was measured lately."""
        return self.p50 if now_ns - self.noted_ns <= limits.LATENCY_KEPT_S * NS_PER_S else 0


class Size(NamedTuple):
    """How large requests of a model are: a property of its customers, so the same wherever they are served."""

    prompt_parts: int = _PARTS // 3  # of 1024 of the bound, which is the number of bytes
    output: int = limits.OUTPUT_EXPECTED  # tokens of one sequence


def size_of(states: Sequence["OfferState"]) -> Size:
    """What the offers that have served say on average."""
    known = prompt_parts = output = 0
    for state in states:
        habit = state.habit
        if habit.known:
            known += 1
            prompt_parts += habit.prompt_parts
            output += habit.output
    return Size(prompt_parts // known, output // known) if known else Size()


def expected(order: Order, max_tokens: int, states: Sequence["OfferState"], held_parts: Sequence[int]) -> Load:
    """What this request would use at each. `held_parts`: of 1024 of its prompt, what is thought to be in the cache."""
    size = size_of(states)
    prompt = max(1, order.prompt_tokens_max * size.prompt_parts // _PARTS) * order.sequences
    output = min(size.output, max_tokens) * order.sequences
    cached, cpu_ns, energy_uj = [], [], []
    for state, held in zip(states, held_parts, strict=True):
        habit = state.habit
        read = prompt * max(held, habit.cached_parts) // _PARTS
        cached.append(read)
        cpu_ns.append((prompt - read + output) * habit.cpu_ns // _PARTS)
        energy_uj.append((prompt - read + output) * habit.energy_uj // _PARTS)
    return Load(prompt, output, cached, cpu_ns, energy_uj)


def most(order: Order, max_tokens: int, states: Sequence["OfferState"]) -> Load:
    """The most that is sensible: every byte a token, nothing from a cache, as much output as is forwarded."""
    prompt, output = order.prompt_tokens_max * order.sequences, max_tokens * order.sequences
    tokens = prompt + output
    cpu_ns = [tokens * state.habit.cpu_ns // _PARTS for state in states]
    energy_uj = [tokens * state.habit.energy_uj // _PARTS for state in states]
    return Load(prompt, output, [0] * len(states), cpu_ns, energy_uj)


class Habit:
    """What requests have used at an offer: averages of the last thirty or so."""

    __slots__ = ("cached_parts", "cpu_ns", "energy_uj", "known", "output", "prompt_parts")

    def __init__(self) -> None:
        self.known = False
        self.prompt_parts = self.output = 0  # see Size
        self.cached_parts = 0  # of 1024 of the prompt
        self.cpu_ns = self.energy_uj = 0  # of 1024 tokens, prompt and output

    def note(self, order: Order, used: Usage) -> int:
        """What one whole answer used. Returns how many tokens one sequence had."""
        bound, (prompt, generated, _) = order.prompt_tokens_max * order.sequences or 1, used.projected
        prompt_parts, output = _PARTS * prompt // bound if prompt < bound else _PARTS, generated // order.sequences
        cached_parts = _PARTS * used.cached_input // (prompt or 1)
        cpu_ns = energy_uj = 0
        if used.cpu_ns or used.energy_uj:
            tokens = prompt + generated or 1
            cpu_ns, energy_uj = _PARTS * used.cpu_ns // tokens, _PARTS * used.energy_uj // tokens
        if not self.known:  # then the sample is all that is known
            self.known = True
            self.prompt_parts, self.cached_parts, self.output = prompt_parts, cached_parts, output
            self.cpu_ns, self.energy_uj = cpu_ns, energy_uj
            return output
        self.prompt_parts += (prompt_parts - self.prompt_parts) // 8
        self.cached_parts += (cached_parts - self.cached_parts) // 8
        self.output += (output - self.output) // 8
        if cpu_ns or self.cpu_ns:  # a vendor tells of neither
            self.cpu_ns += (cpu_ns - self.cpu_ns) // 8
        if energy_uj or self.energy_uj:
            self.energy_uj += (energy_uj - self.energy_uj) // 8
        return output


class OfferState:
    """What a worker knows of one offer."""

    __slots__ = (
        "_back_ns",
        "_busy",
        "_failed_ns",
        "_open_s",
        "_requests",
        "_tokens",
        "answers_whole",
        "bounded",
        "cost",
        "error_parts",
        "failures",
        "first",
        "habit",
        "in_flight",
        "offer",
        "probing",
        "token",
        "told",
        "why",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.first = Latency()  # from the call to the first event
        self.token = Latency()  # from there on, per token
        self.habit = Habit()
        self.failures = 0  # in a row
        self.error_parts = 0  # of 1024 calls lately
        self.probing = False  # the one call that a half-open breaker lets through is under way
        self.why = ""  # it is left alone, or was until it is asked again: "open" for its breaker, or a Fault
        self.told = False  # it said itself for how long
        self._back_ns = self._failed_ns = 0
        self._open_s = 0
        self._busy = 0  # refusals for being busy, in a row
        self._requests, self._tokens = Bucket(), Bucket()
        self.offer: Offer | None = None  # as it stands in the snapshot
        self.bounded = False
        self.cost: Tariff | None = None  # what the last call was made at
        self.answers_whole = False  # at that, see Quote

    def begin(self, order: Order, quote: Quote, now_ns: int) -> "Call":
        """It is called. What a quote says of every order is found out once for all that have its offer and cost."""
        if self.cost is not quote.cost:
            self.cost, self.answers_whole = quote.cost, quote.answers_whole
        probe = bool(self.why) and not self.probing and self.breaker(now_ns) == "half-open"
        self.in_flight += 1
        self.probing = self.probing or probe
        return Call(self, self.answers_whole and quote.is_waited_for(order), now_ns, now_ns, probe)

    def left_out(self, now_ns: int) -> str:
        """Why it is not to be asked now; empty when it is."""
        if not self.why:
            return ""
        return self.why if now_ns < self._back_ns else "probing" if self.probing else ""

    def full(self, offer: Offer, workers: int, tokens: int, now_ns: int) -> str:
        """Which of the operator's bounds is reached; empty: none. Each worker has its share of them."""
        if offer.concurrency and self.in_flight * workers >= offer.concurrency:
            return "concurrency"
        if offer.rpm and not self._requests.has(_share(offer.rpm, workers), 1, now_ns):
            return "rpm"
        return "tpm" if offer.tpm and not self._tokens.has(_share(offer.tpm, workers), tokens, now_ns) else ""

    def take(self, offer: Offer, workers: int, tokens: int, now_ns: int) -> None:
        """Count a call against the bounds."""
        for bucket, bound, amount in ((self._requests, offer.rpm, 1), (self._tokens, offer.tpm, tokens)):
            if bound:
                bucket.has(_share(bound, workers), amount, now_ns)
                bucket.take(amount)

    def back_ns(self) -> int:
        """When it may be asked again."""
        return self._back_ns if self.why else 0

    def behind(self, now_ns: int) -> bool:
        """Whether it stands behind those that work. Not for ever: who is asked no more cannot show that he works."""
        return self.failures > 0 and now_ns < self._failed_ns + limits.FAILED_BEHIND_S * NS_PER_S

    def errors(self, now_ns: int) -> int:
        """Of 1024 calls lately, those that failed; half as many with each while since the last that did."""
        return self.error_parts >> min(10, (now_ns - self._failed_ns) // (limits.ERRORS_HALVE_S * NS_PER_S))

    def breaker(self, now_ns: int) -> str:
        """closed, open or half-open."""
        return "closed" if not self.why else "open" if now_ns < self._back_ns else "half-open"

    def worked(self) -> None:
        """It answered: the breaker closes."""
        self.failures = self._open_s = self._busy = 0
        self.why = ""
        self.error_parts -= self.error_parts // 16

    def failed(self, error: UpstreamError, now_ns: int, wait_ns: int | None) -> None:
        """It refused or failed; it wants to be left alone for `wait_ns`, or does not say."""
        fault = error.fault
        if fault in _INNOCENT:
            self.worked()
            return
        self.failures += 1
        errors = self.errors(now_ns)
        self.error_parts, self._failed_ns = errors + (_PARTS - errors) // 16, now_ns
        self.told = wait_ns is not None
        if fault in {Fault.RATE_LIMITED, Fault.QUOTA}:
            self._busy = min(self._busy + 1, 6)
            guess_s = 2 ** (self._busy - 1) if fault is Fault.RATE_LIMITED else limits.DISABLED_S
            self._close(fault, now_ns, guess_s * NS_PER_S if wait_ns is None else wait_ns)
        elif fault.is_ours:
            self._close(fault, now_ns, limits.DISABLED_S * NS_PER_S)
        elif self.why or self.failures >= limits.BREAKER_FAILURES or self.error_parts > _PARTS // 2:
            self._open_s = min(max(1, 2 * self._open_s), limits.BREAKER_OPEN_S_MAX)
            self._close("open", now_ns, self._open_s * NS_PER_S)

    def _close(self, why: str, now_ns: int, wait_ns: int) -> None:
        self.why, self._back_ns = str(why), now_ns + min(wait_ns, limits.COOL_DOWN_S_MAX * NS_PER_S)


def times(states: Sequence[OfferState], output: int, now_ns: int) -> list[int]:
    """How long each is expected to take for so many tokens, in ns; 0: not known, or not lately."""
    found, since_ns = [], now_ns - limits.LATENCY_KEPT_S * NS_PER_S
    for state in states:
        first, token = state.first, state.token
        time_ns = first.p50 if first.noted_ns >= since_ns else 0
        if token.noted_ns >= since_ns:
            time_ns += token.p50 * output
        found.append(time_ns)
    return found


def _share(bound: int, workers: int) -> int:
    return max(1, bound // workers)


class Call(msgspec.Struct, eq=False):
    """One call under way, see `OfferState.begin`. `spoke` once, at the first event; `ended` once."""

    state: OfferState
    whole: bool  # asked for an answer in one piece, of which the first event is the last
    began_ns: int
    first_ns: int
    probe: bool
    over: bool = False

    def spoke(self, now_ns: int) -> None:
        """The first event came."""
        state = self.state
        if not self.whole:
            self.first_ns = now_ns
            state.first.note(now_ns - self.began_ns, now_ns)
        if state.failures or state.error_parts:  # otherwise nothing is held against it
            state.worked()

    def came_whole(self, order: Order, used: Usage, now_ns: int) -> None:
        """It came to its end and used this."""
        state = self.state
        tokens = state.habit.note(order, used)
        if tokens >= limits.SPEED_TOKENS_MIN:
            said_ns, first = now_ns - self.first_ns, state.first
            if self.whole and first.count:
                said_ns -= first.median(now_ns)
            state.token.note(said_ns // tokens if said_ns > 0 else 0, now_ns)
        self.ended()

    def ended(self) -> None:
        """It is over, for whatever reason. The second time says nothing new."""
        if not self.over:
            self.over = True
            self.state.in_flight -= 1
            if self.probe:
                self.state.probing = False
