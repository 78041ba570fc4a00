"""The order of offers as a pure function of what is known of them at that moment.

Each dimension is a ratio to the best of the candidates, so that money, time and energy can be added; a policy is a set
of weights. Knows no clock and no socket. What is unknown is taken for good until it was tried.
"""

from typing import NamedTuple

from steelyard.kernel.routes import Policy

PARTS = 1000  # a score of so many parts is that of the best in everything
_WORST = 20 * PARTS
_NORMAL = 100
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
    """The candidates as a choice sees them; the lists go by the candidates."""

    costs_nano: list[int]  # what the request is expected to cost us there
    times_ns: list[int]  # what it is expected to take; 0: not known
    energies_uj: list[int]  # 0: not known
    in_flight: list[int]
    concurrency: list[int]  # 0: unbounded
    error_parts: list[int]  # of 1024 calls lately
    weights: list[int]  # the operator's; 100 is nothing special
    strains: list[int]  # parts of 1000: what of the prompt it would have to compute, and its work beyond its share


def scores(view: View, policy: Policy) -> list[int]:
    """The lower the better; `PARTS` is the best in everything, without errors, at the normal weight."""
    for_cost, for_time, for_energy = _WEIGHTS.get(policy, _WEIGHTS[Policy.BALANCED])
    cheapest = min(view.costs_nano)
    fastest = min([time for time in view.times_ns if time], default=0)
    least = min([energy for energy in view.energies_uj if energy], default=0)
    if policy is not Policy.GREENEST and not all(view.energies_uj):  # nobody is worse for not telling
        for_energy = 0
    whole, strained = for_cost + for_time + for_energy, _STRAIN.get(policy, _STRAIN_ELSE)
    found = []
    for cost, time, energy, in_flight, concurrency, errors, weight, strain in zip(*view, strict=True):
        dear = PARTS * cost // cheapest if cheapest else _WORST if cost else PARTS
        if time:
            slow = PARTS * time // fastest
            if concurrency:
                slow += slow * in_flight // concurrency
        else:  # whoever was not measured is tried by one request at a time
            slow = PARTS * (1 + in_flight)
        score = for_cost * (dear if dear < _WORST else _WORST) + for_time * (slow if slow < _WORST else _WORST)
        if for_energy:
            greedy = PARTS * energy // least if energy else _WORST
            score += for_energy * (greedy if greedy < _WORST else _WORST)
        score = score // whole + strained * strain // PARTS + in_flight
        if errors or weight != _NORMAL:
            score = score * (1024 + errors) * _NORMAL // (1024 * weight)
        found.append(score)
    return found
