"""Which offers are tried, in which order, and which may be tried after a failure. One per worker.

Owns the states of the offers, which accounts are closed, and the budget of repeated tries. A choice is a pure function
of what is known at that moment: no I/O, and time comes in as nanoseconds that never step back.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import structlog

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate, Choice, Load
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, UpstreamError, unavailable
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Order, Quote
from steelyard.kernel.routes import Guard, Policy, Routes
from steelyard.kernel.tariff import Tariff
from steelyard.kernel.why import bytes_from_why
from steelyard.routing.affinity import UNKNOWN, Affinity
from steelyard.routing.health import ACCOUNT, Call, OfferState, expected, most, times
from steelyard.routing.made import Made
from steelyard.routing.rules import DEFAULT, Rules, Wanted, pinned, rules_of
from steelyard.routing.scores import PARTS, View, scores

log = structlog.get_logger()

_BUDGET_MAX = limits.RETRIES_BURST * limits.RETRY_PARTS


class Weigh(Protocol):
    """What each would cost, and leave (rating.estimate)."""

    def costs(self, candidates: Sequence[Candidate], load: Load) -> list[int]: ...
    def margins(self, candidates: Sequence[Candidate], loads: Sequence[Load], price: Tariff) -> list[int]: ...


class Router:
    """The states of the offers as this worker has met them. `workers`: how many share the bounds of an offer."""

    def __init__(self, workers: int = 1, worker: int = 0) -> None:
        self.worker = worker
        self._workers = workers
        self._states: dict[int, OfferState] = {}
        self.closed: dict[str, tuple[int, str]] = {}  # upstream → until when its account is of no use, and why
        self.affinity = Affinity()
        self._budget = _BUDGET_MAX
        self.made: OrderedDict[bytes, Made] = OrderedDict()  # the last choices, oldest first; empty where there is none
        self._asked_again: dict[str, int] = {}  # upstream → when an operator said so
        self.flagged = 0  # requests served at an expected loss

    def rank(self, wanted: Wanted, candidates: list[Candidate], weigh: Weigh, now_ns: int) -> list[Candidate]:
        """The offers to try, best first; those that are left out stand behind, for when all others fail.

        Raises CallerError: 429 when all have said for how long they want to be left alone, or are at their bounds; 503
        when each would lose money and the model's guard refuses that.
        """
        if wanted.routes.upstreams != self._asked_again:
            self._ask_again(wanted.routes)
        routes = wanted.routes
        rules = rules_of(wanted) if routes.keys or routes.models else DEFAULT
        if rules.pinned:
            candidates = pinned(rules, candidates)
        if len(candidates) == 1 and rules.guard is Guard.OFF:
            offer = candidates[0].offer
            if (state := self._states.get(offer.id)) is None or state.offer is not offer:
                state = self.state(offer)
            if state.told or state.bounded:
                self._refuse_or_wait(state, offer, wanted, now_ns)
            return candidates
        made, states = self._seen(wanted, rules, candidates, weigh, now_ns)
        pin = rules.policy is Policy.PINNED
        made.scores = list(range(len(candidates))) if pin else scores(made.view, rules.policy)
        free = not self.closed and rules.guard is not Guard.REFUSE
        made.left_out = [
            "" if free and not (state.why or state.bounded) else self._left_out(made, place, state, now_ns)
            for place, state in enumerate(states)
        ]
        ranked: list[int] = []
        try:
            ranked = self._ranked(made, states, now_ns)
        finally:
            self._keep(made, ranked)
        return [candidates[place] for place in ranked]

    def _seen(
        self, wanted: Wanted, rules: Rules, candidates: Sequence[Candidate], weigh: Weigh, now_ns: int
    ) -> tuple[Made, list[OfferState]]:
        """The candidates as they stand."""
        order, most_tokens = wanted.order, wanted.terms.max_tokens
        offers = [one.offer for one in candidates]
        states = [self.state(offer) for offer in offers]
        likely = self.affinity.look(order, wanted.caller, offers, now_ns)
        known = likely[0] is not UNKNOWN
        held = [int(1024 * cache.hit) for cache in likely] if known else [0] * len(offers)
        load = expected(order, most_tokens, states, held)
        margins: list[int] = []
        if rules.guard is not Guard.OFF:
            margins = weigh.margins(candidates, (load, most(order, most_tokens, states)), wanted.terms.price)
        view = View(
            weigh.costs(candidates, load),
            times(states, load.output // order.sequences, now_ns),
            load.energy_uj,
            [state.in_flight for state in states],
            [offer.concurrency for offer in offers],
            [state.error_parts and state.errors(now_ns) for state in states],
            [offer.weight for offer in offers],
            [int(PARTS * min(cache.strain, 4)) for cache in likely] if known else [0] * len(offers),
        )
        return Made(wanted, rules, candidates, likely, load, view, margins), states

    def _ranked(self, made: Made, states: Sequence[OfferState], now_ns: int) -> list[int]:
        """The places of the candidates in the order they are to be tried."""
        later = made.rules.guard is Guard.REROUTE
        fit, behind = [], []
        for place, (score, reason, state) in enumerate(zip(made.scores, made.left_out, states, strict=True)):
            if not reason:
                fit.append((later and made.loses(place), state.behind(now_ns), score, place))
            elif reason in {"open", "probing"} or not (reason in _FIRM or state.told):
                behind.append((self._back_ns(made.candidates[place].offer), place))
        ranked = [one[-1] for one in sorted(fit)] + [one[-1] for one in sorted(behind)]
        if not ranked:
            raise self._refusal(made, now_ns)
        self.flagged += made.loses(ranked[0])
        return ranked

    def _refusal(self, made: Made, now_ns: int) -> CallerError:
        """Why nobody may be asked."""
        if all(reason == "margin" for reason in made.left_out):
            message = "At the moment this model costs more than it is sold for, so it is not served."
            return unavailable("margin_refused", message, limits.RETRY_AFTER_S)
        waits_ns = [self._back_ns(one.offer) - now_ns for one in made.candidates]
        wait_ns = min([wait_ns for wait_ns in waits_ns if wait_ns > 0], default=NS_PER_S)
        return _busy(wait_ns)

    def _left_out(self, made: Made, place: int, state: OfferState, now_ns: int) -> str:
        offer = made.candidates[place].offer
        if (state.why or self.closed) and (reason := self.left_out(offer, now_ns)):
            return reason
        if offer.is_bounded and (reason := state.full(offer, self._workers, _tokens(made.wanted), now_ns)):
            return reason
        return "margin" if made.rules.guard is Guard.REFUSE and made.loses(place) else ""

    def _refuse_or_wait(self, state: OfferState, offer: Offer, wanted: Wanted, now_ns: int) -> None:
        """The only offer is asked whatever is held against it, unless it said for how long it wants to be left alone.

        Raises CallerError 429.
        """
        if state.told and (wait_ns := state.back_ns() - now_ns) > 0:
            raise _busy(wait_ns)
        if state.bounded and state.full(offer, self._workers, _tokens(wanted), now_ns):
            raise _busy(NS_PER_S)

    def left_out(self, offer: Offer, now_ns: int) -> str:
        """Why it is not to be asked now; empty when it is. Changes nothing: any thread may look."""
        closed = self.closed.get(offer.upstream)
        if closed is not None and now_ns < closed[0]:
            return closed[1]
        state = self._states.get(offer.id)
        return state.left_out(now_ns) if state is not None else ""

    def _back_ns(self, offer: Offer) -> int:
        return max(self.state(offer).back_ns(), self.closed.get(offer.upstream, (0, ""))[0])

    def state(self, offer: Offer) -> OfferState:
        """What is known of it."""
        try:
            state = self._states[offer.id]
        except KeyError:
            if len(self._states) >= limits.OFFERS_WATCHED_MAX:  # most of them are offered no more
                self._states.clear()
            state = self._states[offer.id] = OfferState()
        if state.offer is not offer:
            state.offer, state.bounded, state.cost = offer, offer.is_bounded, None
        return state

    def known(self, offer: Offer) -> OfferState | None:
        """The same, if it was met; makes none. Any thread may look."""
        return self._states.get(offer.id)

    def _ask_again(self, routes: Routes) -> None:
        """An operator has mended something: what is held against the upstream is forgotten."""
        for upstream, at_ns in routes.upstreams.items():
            if self._asked_again.get(upstream) != at_ns:
                self.closed.pop(upstream, None)
                for state in self._states.values():
                    if state.offer is not None and state.offer.upstream == upstream:
                        state.worked()
        self._asked_again = routes.upstreams

    # --- what became of it --------------------------------------------------------------------------------------

    def begin(self, order: Order, quote: Quote, now_ns: int, *, again: bool = False) -> Call:
        """An offer is called; `again`: it is not the first that this request goes to."""
        offer = quote.offer
        state = self._states.get(offer.id)
        if state is None or state.offer is not offer:
            state = self.state(offer)
        if offer.rpm or offer.tpm:
            tokens = (order.prompt_tokens_max + quote.max_tokens) * order.sequences
            state.take(offer, self._workers, tokens, now_ns)
        if self._budget < _BUDGET_MAX and not again:  # a part of a try more may be repeated
            self._budget = min(_BUDGET_MAX, self._budget + limits.RETRY_PERCENT * limits.RETRY_PARTS // 100)
        return state.begin(order, quote, now_ns)

    def spoke(self, offer: Offer) -> None:
        """It has begun to answer, so its account is in order: to be told while any is `closed`."""
        if self.closed.pop(offer.upstream, None) is not None:
            log.info("upstream_enabled", upstream=offer.upstream)

    def failed(self, offer: Offer, error: UpstreamError, now_ns: int, wait_ns: int | None) -> None:
        """It refused or failed. An account that is of no use is told of once, and all its offers are left alone."""
        self.state(offer).failed(error, now_ns, wait_ns)
        if error.fault in ACCOUNT:
            if self.closed.get(offer.upstream, (0, ""))[0] <= now_ns:
                log.error("upstream_disabled", upstream=offer.upstream, fault=error.fault, reason=error.message)
            self.closed[offer.upstream] = (now_ns + limits.DISABLED_S * NS_PER_S, str(error.fault))

    def may_move(self, offer: Offer, now_ns: int) -> bool:
        """Whether a request that failed elsewhere may be tried here.

        An offer that works takes what another one cannot: that multiplies nothing. One that has failed itself lately,
        or is left out, is tried within the budget only, so that when all fail the load on them does not multiply.
        """
        if self.state(offer).failures or self.left_out(offer, now_ns):
            if self._budget < limits.RETRY_PARTS:
                return False
            self._budget -= limits.RETRY_PARTS
        return True

    # --- why ----------------------------------------------------------------------------------------------------

    def _keep(self, made: Made, ranked: Sequence[int]) -> None:
        """Of several models that may answer, the choice among the offers of the first that has any counts."""
        made.ranked = ranked
        request_id = made.wanted.order.request_id
        if (before := self.made.get(request_id)) is None or not before.ranked:
            self.made[request_id] = made
        if len(self.made) > limits.CHOICES_KEPT:
            self.made.popitem(last=False)

    def in_short(self, request_id: bytes) -> bytes:
        """Why it was routed so, for the journal; empty where there was nothing to choose."""
        made = self.made.get(request_id)
        return b"" if made is None else bytes_from_why(made.why([self.state(one.offer) for one in made.candidates]))

    def forget(self, request_id: bytes) -> None:
        """It was only thought of: nothing of it stays, and it is no request that was served at a loss."""
        made = self.made.pop(request_id, None)
        self.affinity.ended(request_id)
        if made is not None and made.ranked:
            self.flagged -= made.loses(made.ranked[0])

    def why(self, request_id: bytes) -> Choice | None:
        """How a request was routed, while this worker remembers it; None also where there was nothing to choose."""
        made = self.made.get(request_id)
        return None if made is None else made.choice([self.state(one.offer) for one in made.candidates])


_FIRM = frozenset({"margin", "rpm", "tpm", "concurrency"})
"""What nobody is tried against, whatever fails."""


def _tokens(wanted: Wanted) -> int:
    """The most that the request can have."""
    order = wanted.order
    return (order.prompt_tokens_max + wanted.terms.max_tokens) * order.sequences


def _busy(wait_ns: int) -> CallerError:
    wait_s = min(wait_ns // NS_PER_S + 1, limits.UPSTREAM_RETRY_AFTER_S_MAX)
    return CallerError(429, "overloaded", "The model is busy. Try again in a moment.", retry_after_s=wait_s)
