"""A choice that was made, kept as it was made; why it came out so is told when somebody asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate, Choice, Considered, Expected
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.why import Weighed, Why
from steelyard.routing.health import OfferState
from steelyard.routing.rules import Rules, Wanted
from steelyard.routing.scores import View


@dataclass(slots=True)
class Made:
    """One choice: lists in the order of the candidates, and `ranked`, the places of those to try in their order."""

    wanted: Wanted
    rules: Rules
    weighed: Sequence[Candidate]
    expected: Sequence[Expected]
    views: Sequence[View]
    scores: Sequence[int]
    left_out: Sequence[str]
    ranked: list[int] = field(default_factory=list)

    def choice(self, states: Sequence[OfferState]) -> Choice:
        """As a record. Latencies are those of now."""
        behind = [place for place in range(len(self.weighed)) if place not in self.ranked]
        rank = {place: number for number, place in enumerate(self.ranked, 1)}
        considered = tuple(self._considered(place, rank.get(place, 0), states) for place in [*self.ranked, *behind])
        terms = self.wanted.terms
        return Choice(
            request_id=self.wanted.order.request_id,
            chosen_ns=terms.priced_ns,
            policy=self.rules.policy.value,
            decided_by=self.rules.decided_by,
            currency=terms.price.currency,
            expected=self.expected[[*self.ranked, *behind][0]].usage,
            considered=considered,
        )

    def why(self, states: Sequence[OfferState]) -> Why:
        """In short, for the journal."""
        behind = [place for place in range(len(self.weighed)) if place not in self.ranked]
        offers = []
        for number, place in enumerate([*self.ranked, *behind][: limits.WEIGHED_KEPT_MAX], 1):
            one, view, rank = self.weighed[place], self.views[place], number if place in self.ranked else 0
            known = (self.left_out[place], self.scores[place], one.cost_nano, states[place].first.p50 // NS_PER_MS)
            offers.append(Weighed(one.offer.id, rank, *known, view.affinity, view.strain))
        return Why(self.rules.policy.value, self.rules.decided_by, tuple(offers))

    def _considered(self, place: int, rank: int, states: Sequence[OfferState]) -> Considered:
        one, view, state = self.weighed[place], self.views[place], states[place]
        offer = one.offer
        return Considered(
            offer_id=offer.id,
            model=offer.model,
            upstream=offer.upstream,
            upstream_model=offer.upstream_model,
            rank=rank,
            left_out=self.left_out[place],
            score=self.scores[place],
            cost_nano=one.cost_nano,
            margin_nano=one.margin_nano,
            energy_uj=one.energy_uj,
            first_token_ms=state.first.p50 // NS_PER_MS,
            token_us=state.token.p50 // 1000,
            error_permille=view.error_parts * 1000 // 1024,
            in_flight=view.in_flight,
            breaker=state.why or "closed",
            affinity=view.affinity,
            strain=view.strain,
            weight=view.weight,
        )
