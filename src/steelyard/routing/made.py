"""A choice that was made, kept as it was made; why it came out so is told when somebody asks."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.kernel import limits
from steelyard.kernel.choice import Candidate, Choice, Considered, Load
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.why import Weighed, Why
from steelyard.routing.affinity import Likely
from steelyard.routing.health import OfferState
from steelyard.routing.rules import Rules, Wanted
from steelyard.routing.scores import PARTS, View


@dataclass(slots=True)
class Made:
    """One choice: lists in the order of the candidates, and `ranked`, the places of those to try in their order."""

    wanted: Wanted
    rules: Rules
    candidates: Sequence[Candidate]
    likely: Sequence[Likely]
    load: Load
    view: View
    margins: Sequence[int]  # empty: nobody asked
    scores: Sequence[int] = ()
    left_out: Sequence[str] = ()
    ranked: Sequence[int] = ()

    def loses(self, place: int) -> bool:
        return bool(self.margins) and self.margins[place] < 0

    @property
    def _places(self) -> list[int]:
        """Those to try in their order, then those that were left out."""
        return [*self.ranked, *(place for place in range(len(self.candidates)) if place not in self.ranked)]

    def choice(self, states: Sequence[OfferState]) -> Choice:
        """As a record. Latencies are those of now."""
        rank = {place: number for number, place in enumerate(self.ranked, 1)}
        places, terms = self._places, self.wanted.terms
        return Choice(
            request_id=self.wanted.order.request_id,
            chosen_ns=terms.priced_ns,
            policy=self.rules.policy.value,
            decided_by=self.rules.decided_by,
            currency=terms.price.currency,
            expected=self.load.usage(places[0]),
            considered=tuple(self._considered(place, rank.get(place, 0), states[place]) for place in places),
        )

    def why(self, states: Sequence[OfferState]) -> Why:
        """In short, for the journal."""
        tried, offers = len(self.ranked), []
        for number, place in enumerate(self._places[: limits.WEIGHED_KEPT_MAX], 1):
            rank = number if number <= tried else 0
            known = (self.left_out[place], self.scores[place], self.view.costs_nano[place])
            first_ms, likely = states[place].first.p50 // NS_PER_MS, self.likely[place]
            held, strain = int(PARTS * likely.hit), self.view.strains[place]
            offers.append(Weighed(self.candidates[place].offer.id, rank, *known, first_ms, held, strain))
        return Why(self.rules.policy.value, self.rules.decided_by, tuple(offers))

    def _considered(self, place: int, rank: int, state: OfferState) -> Considered:
        offer, view = self.candidates[place].offer, self.view
        return Considered(
            offer_id=offer.id,
            model=offer.model,
            upstream=offer.upstream,
            upstream_model=offer.upstream_model,
            rank=rank,
            left_out=self.left_out[place],
            score=self.scores[place],
            cost_nano=view.costs_nano[place],
            margin_nano=self.margins[place] if self.margins else None,
            energy_uj=view.energies_uj[place] or None,
            first_token_ms=state.first.p50 // NS_PER_MS,
            token_us=state.token.p50 // 1000,
            error_permille=view.error_parts[place] * 1000 // 1024,
            in_flight=view.in_flight[place],
            breaker=state.why or "closed",
            affinity=int(PARTS * self.likely[place].hit),
            strain=view.strains[place],
            weight=offer.weight,
        )
