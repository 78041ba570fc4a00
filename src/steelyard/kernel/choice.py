"""What a choice among offers is made of, and why it came out as it did. No rules here, only shapes."""

from typing import NamedTuple

from steelyard.kernel.frozen import Record
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Tariff


class Sold(NamedTuple):
    """A model and what it is sold for."""

    model: Model
    price: Tariff


class Candidate(Record, frozen=True, gc=False):
    """An offer that could serve a request, with its tariff of our cost."""

    offer: Offer
    cost: Tariff
    rate: Tariff | None = None  # turns the currency of `cost` into the customer's; None: they are the same


class Load(NamedTuple):
    """What a request is expected to use, over all its sequences; the lists go by the candidates.

    Plain numbers in lists, because sixteen offers are weighed in the time of one read.
    """

    prompt: int
    output: int
    cached: list[int]  # of the prompt
    cpu_ns: list[int]
    energy_uj: list[int]

    def usage(self, place: int) -> Usage:
        """At one candidate."""
        cached, cpu_ns, energy_uj = self.cached[place], self.cpu_ns[place], self.energy_uj[place]
        return Usage(self.prompt - cached, cached, self.output, cpu_ns, energy_uj)


class Considered(Record, frozen=True):
    """One candidate as a choice saw it. `rank` counts from 1; 0: it was left out, and `left_out` says why."""

    offer_id: int
    model: str
    upstream: str
    upstream_model: str
    rank: int
    left_out: str
    score: int  # the lower the better, in parts of 1000 of the best
    cost_nano: int
    margin_nano: int | None
    energy_uj: int | None
    first_token_ms: int  # the median of late; 0: not measured
    token_us: int
    error_permille: int
    in_flight: int
    breaker: str
    affinity: int = 0  # parts of 1000 of the prompt that it is thought to hold
    strain: int = 0  # parts of 1000 that its load and its cache added to the score
    weight: int = 100  # the operator's


class Choice(Record, frozen=True):
    """Why a request went where it went."""

    request_id: bytes
    chosen_ns: int  # wall time
    policy: str
    decided_by: str  # "key", "model" or "default": whose policy it is
    currency: str  # of the costs
    expected: Usage  # at the first of them
    considered: tuple[Considered, ...]  # in the order they would be tried, then those that were left out
