"""What a choice among offers is made of, and why it came out as it did. No rules here, only shapes."""

from steelyard.kernel.frozen import Record
from steelyard.kernel.offers import Offer
from steelyard.kernel.tariff import Tariff


class Candidate(Record, frozen=True, gc=False):
    """An offer that could serve a request, with its tariff of our cost and what the request would cost us there.

    `cost_nano` is what is expected, `worst_nano` the worst that is sensible, both in the customer's currency.
    """

    offer: Offer
    cost: Tariff
    cost_nano: int = 0
    worst_nano: int = 0
    energy_uj: int = 0
    rate: Tariff | None = None  # turns the currency of `cost` into the customer's; None: they are the same


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
    energy_uj: int
    first_token_ms: int  # the median of late; 0: not measured
    token_us: int
    error_permille: int
    in_flight: int
    breaker: str
    affinity: int = 0  # parts of 1000 of the prompt that it is thought to hold
    weight: int = 100  # the operator's


class Choice(Record, frozen=True):
    """Why a request went where it went."""

    request_id: bytes
    chosen_ns: int  # wall time
    policy: str
    decided_by: str  # "key", "model" or "default": whose policy it is
    charge_nano: int  # what the customer is expected to pay
    currency: str
    considered: tuple[Considered, ...]
