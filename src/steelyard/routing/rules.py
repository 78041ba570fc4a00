"""Whose rule decides how a request is routed: the key's, the model's, or the house's. Pure look-ups."""

from typing import NamedTuple

from steelyard.kernel.choice import Candidate
from steelyard.kernel.errors import unavailable
from steelyard.kernel.frozen import Record
from steelyard.kernel.records import Caller, Order, Terms
from steelyard.kernel.routes import Guard, Policy, Routes


class Wanted(Record, frozen=True, gc=False):
    """What is to be routed: the order, who asks, the money set aside for one model, and the rules in force."""

    order: Order
    caller: Caller
    terms: Terms
    routes: Routes


class Rules(NamedTuple):
    """What counts for one request."""

    policy: Policy = Policy.BALANCED
    decided_by: str = "default"
    pinned: tuple[str, ...] = ()
    guard: Guard = Guard.OFF


DEFAULT = Rules()
"""What counts where nobody made a rule."""


def rules_of(wanted: Wanted) -> Rules:
    """The key's policy goes before the model's; the guard is the model's."""
    routes = wanted.routes
    key, model = routes.keys.get(wanted.caller.key_id), routes.models.get(wanted.terms.model.name)
    if key is None and model is None:
        return DEFAULT
    guard = model.guard if model is not None and model.guard is not None else Guard.OFF
    for rule, whose in ((key, "key"), (model, "model")):
        if rule is not None and rule.policy is not None:
            return Rules(rule.policy, whose, rule.pinned, guard)
    return Rules(guard=guard)


def pinned(rules: Rules, candidates: list[Candidate]) -> list[Candidate]:
    """Those at the upstreams the rule names, in its order. Raises CallerError 503 when there is none."""
    found = [one for name in rules.pinned for one in candidates if one.offer.upstream == name]
    if not found:
        raise unavailable("model_unavailable", "None of the upstreams that this is pinned to offers the model.")
    return found
