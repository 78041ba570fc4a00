"""Which offers are tried, in which order, and which may be tried after a failure. One per worker.

Owns the states of the offers, which accounts are closed, and the budget of repeated tries. A choice is a pure function
of what is known at that moment: no I/O, and time comes in as nanoseconds that never step back.
"""

from collections.abc import Sequence

import structlog

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Caller, Order
from steelyard.routing.affinity import Affinity
from steelyard.routing.health import ACCOUNT, Call, OfferState

log = structlog.get_logger()


class Router:
    """The states of the offers as this worker has met them."""

    def __init__(self) -> None:
        self._states: dict[int, OfferState] = {}
        self._closed: dict[str, tuple[int, str]] = {}  # upstream → until when its account is of no use, and why
        self.affinity = Affinity()
        self._budget = limits.RETRIES_BURST * limits.RETRY_PARTS

    def rank(self, order: Order, caller: Caller, candidates: Sequence[Candidate], now_ns: int) -> Sequence[Candidate]:
        """The offers to try, best first. When all are left out, the one that is back first is tried all the same.

        Raises CallerError 429 when that one has said itself for how long it wants to be left alone.
        """
        fit = []
        likely = self.affinity.look(order, caller, [one.offer for one in candidates], now_ns)
        for place, one in enumerate(candidates):
            if not self.left_out(one.offer, now_ns):
                fit.append((self.state(one.offer).failures > 0, one.cost_nano, likely[place].strain, place))
        if fit:
            return [candidates[place] for *_, place in sorted(fit)]
        first = min(candidates, key=lambda one: self._back_ns(one.offer))
        state, wait_ns = self.state(first.offer), self._back_ns(first.offer) - now_ns
        if state.told and wait_ns > 0:
            wait_s = min(wait_ns // NS_PER_S + 1, limits.UPSTREAM_RETRY_AFTER_S_MAX)
            raise CallerError(429, "overloaded", "The model is busy. Try again in a moment.", retry_after_s=wait_s)
        return [first]

    def left_out(self, offer: Offer, now_ns: int) -> str:
        """Why it is not to be asked now; empty when it is."""
        closed = self._closed.get(offer.upstream)
        if closed is not None and now_ns < closed[0]:
            return closed[1]
        return self.state(offer).left_out(now_ns)

    def _back_ns(self, offer: Offer) -> int:
        return max(self.state(offer).back_ns(), self._closed.get(offer.upstream, (0, ""))[0])

    def state(self, offer: Offer) -> OfferState:
        """What is known of it."""
        state = self._states.get(offer.id)
        if state is None:
            if len(self._states) >= limits.OFFERS_WATCHED_MAX:  # most of them are offered no more
                self._states.clear()
            state = self._states[offer.id] = OfferState()
        return state

    def begin(self, offer: Offer, now_ns: int) -> Call:
        """The offer is called."""
        return Call(self.state(offer), now_ns)

    def spoke(self, offer: Offer) -> None:
        """It has begun to answer, so its account is in order."""
        if self._closed and self._closed.pop(offer.upstream, None) is not None:
            log.info("upstream_enabled", upstream=offer.upstream)

    def failed(self, offer: Offer, error: UpstreamError, now_ns: int, wait_ns: int | None) -> None:
        """It refused or failed. An account that is of no use is told of once, and all its offers are left alone."""
        self.state(offer).failed(error, now_ns, wait_ns)
        if error.fault in ACCOUNT:
            if self._closed.get(offer.upstream, (0, ""))[0] <= now_ns:
                log.error("upstream_disabled", upstream=offer.upstream, fault=error.fault, reason=error.message)
            self._closed[offer.upstream] = (now_ns + limits.DISABLED_S * NS_PER_S, str(error.fault))

    def asked(self) -> None:
        """A request came: a part of a try more may be repeated."""
        most = limits.RETRIES_BURST * limits.RETRY_PARTS
        self._budget = min(most, self._budget + limits.RETRY_PERCENT * limits.RETRY_PARTS // 100)

    def may_move(self, offer: Offer, now_ns: int) -> bool:
        """Whether a request that failed elsewhere may be tried here.

        An offer that works takes what another one cannot: that multiplies nothing. One that has failed itself lately
        is tried within the budget only, so that when all fail the load on them does not multiply.
        """
        if self.left_out(offer, now_ns):
            return False
        if self.state(offer).failures:
            if self._budget < limits.RETRY_PARTS:
                return False
            self._budget -= limits.RETRY_PARTS
        return True
