"""The order of offers as a pure function of what is known of them at that moment.

Each dimension is a ratio to the best of the candidates, so that money, time and energy can be added; a policy is a set
of weights. Knows no clock and no socket. What is unknown is taken for good until it was tried.
"""

from collections.abc import Sequence
from typing import NamedTuple

from steelyard.kernel.routes import Policy

PARTS = 1000  # a score of so many parts is that of the best in everything
_WORST = 20 * PARTS
_WEIGHTS = {
    Policy.BALANCED: (450, 450, 100),
    Policy.CHEAPEST: (980, 20, 0),
    Policy.FASTEST: (20, 980, 0),
    Policy.GREENEST: (20, 0, 980),
}
"""Cost, time, energy. A little of another one decides between offers that are nearly equal."""
_STRAIN = {Policy.CHEAPEST: 100}
_STRAIN_ELSE = 500
"""What a whole prompt to compute counts beside them: more than equal offers differ by."""


class View(NamedTuple):
    """One candidate as a choice sees it."""

    cost_nano: int  # what the request is expected to cost us there
    time_ns: int  # what it is expected to take; 0: not known
    energy_uj: int | None  # None: not known
    in_flight: int
    concurrency: int  # 0: unbounded
    error_parts: int  # of 1024 calls lately
    weight: int  # the operator's; 100 is nothing special
    affinity: int = 0  # parts of 1000 of the prompt that it is thought to hold
    strain: int = 0  # parts of 1000: what of the prompt it would have to compute, and its work beyond its share


def scores(views: Sequence[View], policy: Policy) -> list[int]:
    """The lower the better; `PARTS` is the best in everything, without errors, at the normal weight."""
    for_cost, for_time, for_energy = _WEIGHTS.get(policy, _WEIGHTS[Policy.BALANCED])
    cheapest = min([view.cost_nano for view in views])
    times = [view.time_ns for view in views if view.time_ns]
    fastest = min(times, default=0)
    known = [view.energy_uj for view in views if view.energy_uj is not None]
    least, all_known = min(known, default=0), len(known) == len(views)
    if not all_known and policy is not Policy.GREENEST:  # nobody is worse for not telling
        for_energy = 0
    strain = _STRAIN.get(policy, _STRAIN_ELSE)
    found = []
    for view in views:
        cost = _ratio(view.cost_nano, cheapest)
        if not view.time_ns:  # whoever was not measured is tried by one request at a time
            time = PARTS * (1 + view.in_flight)
        else:
            time = _ratio(view.time_ns, fastest)
            if view.concurrency:
                time += time * view.in_flight // view.concurrency
        energy = _WORST if view.energy_uj is None else _ratio(view.energy_uj, least)
        score = (for_cost * cost + for_time * min(time, _WORST) + for_energy * energy) // (
            for_cost + for_time + for_energy
        )
        score += strain * view.strain // PARTS + view.in_flight
        found.append(score * (1024 + view.error_parts) * 100 // (1024 * view.weight))
    return found


def _ratio(value: int, best: int) -> int:
    """In parts of the best. Where the best costs nothing, all that costs anything is far off."""
    if value == best:
        return PARTS
    return min(PARTS * value // best, _WORST) if best else _WORST
