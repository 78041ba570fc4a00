"""The office's commands about routing: rules of models and keys, aliases, bounds of offers.

Owns what may be asked for. What is in force stands in `catalog.routes` and reaches the workers with their snapshot.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from steelyard.catalog import routes as catalog
from steelyard.catalog.store import models
from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.routes import Guard, Policy, Route, RouteScope
from steelyard.processes.errands import no_worker
from steelyard.processes.outcome import Outcome
from steelyard.processes.payload import Payload, text_of
from steelyard.processes.snapshot import new_snapshot

_Name = Annotated[str, Meta(min_length=1, max_length=limits.SUBJECT_CHARACTERS_MAX)]


Act = Callable[[Connection, Payload, Clock], Outcome]


class _Of(msgspec.Struct, frozen=True, kw_only=True):
    """Whose rule it is: one of the two."""

    model: _Name | None = None
    key: int | None = None


class _Set(_Of, frozen=True, kw_only=True):
    """What is left out of a rule stays as it is; an empty text or list takes it out."""

    policy: str | None = None
    pinned: tuple[_Name, ...] | None = None
    guard: str | None = None
    fallbacks: tuple[_Name, ...] | None = None
    answers_s: Annotated[int, Meta(ge=0, le=limits.ANSWER_CACHED_S_MAX)] | None = None


class _Offered(catalog.OfferRule, frozen=True, kw_only=True):
    model: _Name
    upstream: _Name


class _Alias(msgspec.Struct, frozen=True, kw_only=True):
    name: _Name
    model: _Name | None = None


def route_set(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Change the rule of a model or a key."""
    asked = _asked(payload, _Set)
    scope, subject = _subject(asked)
    before = _standing(connection, scope, subject)
    policy = before.policy if asked.policy is None else _word(Policy, asked.policy, "policy")
    pinned = before.pinned if asked.pinned is None else asked.pinned
    if asked.pinned and asked.policy is None:
        policy = Policy.PINNED
    elif policy is not Policy.PINNED and asked.pinned is None:
        pinned = ()
    guard = before.guard if asked.guard is None else _word(Guard, asked.guard, "guard")
    fallbacks = before.fallbacks if asked.fallbacks is None else asked.fallbacks
    answers_s = before.answers_s if asked.answers_s is None else asked.answers_s
    rule = Route(scope, subject, policy, pinned, guard, fallbacks, clock.now_ns(), answers_s)
    return Outcome(msgspec.to_builtins(catalog.put_route(connection, rule)), snapshot=new_snapshot(connection))


def route_clear(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Give up the rule of a model or a key."""
    scope, subject = _subject(_asked(payload, _Of))
    cleared = catalog.clear_route(connection, scope, subject)
    return Outcome({"cleared": cleared}, snapshot=new_snapshot(connection) if cleared else None)


def route_list(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Every rule and every alias."""
    rules = [rule for rule in catalog.routes_list(connection) if rule.scope is not RouteScope.UPSTREAM]
    aliases = [{"name": name, "model": model} for name, model in catalog.routes(connection).aliases.items()]
    return Outcome({"routes": msgspec.to_builtins(rules), "aliases": aliases})


def route_show(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """The rule of a model, and its offers with their bounds."""
    name = text_of(payload, "model")
    found = catalog.routes(connection)
    name = found.aliases.get(name, name)
    model = models(connection).get(name)
    if model is None:
        raise CallerError(404, "model_not_found", f"There is no model {name!r}.", param="model")
    rule = found.models.get(name)
    aliases = [alias for alias, of in found.aliases.items() if of == name]
    shown = {"model": name, "aliases": aliases, "route": rule, "offers": model.offers}
    return Outcome(msgspec.to_builtins(shown))


def route_offer(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Bound an offer, or give it another weight."""
    asked = _asked(payload, _Offered)
    return Outcome(
        msgspec.to_builtins(catalog.bound_offer(connection, asked.model, asked.upstream, asked)),
        snapshot=new_snapshot(connection),
    )


def route_alias(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Sell a model under another name as well; without a model the name is given up."""
    asked = _asked(payload, _Alias)
    catalog.put_alias(connection, asked.name, asked.model, clock.now_ns())
    return Outcome({"name": asked.name, "model": asked.model}, snapshot=new_snapshot(connection))


def route_retry(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Have every worker ask an upstream again, whatever it holds against it."""
    rule = Route(RouteScope.UPSTREAM, text_of(payload, "upstream"), set_ns=clock.now_ns())
    catalog.put_route(connection, rule)
    return Outcome({"upstream": rule.subject}, snapshot=new_snapshot(connection))


def route_explain(connection: Connection, payload: Payload, clock: Clock) -> Outcome:
    """Books that serve pass this on to a worker; without any nobody can tell."""
    raise no_worker()


ROUTING: Mapping[str, Act] = {
    "route.set": route_set,
    "route.clear": route_clear,
    "route.list": route_list,
    "route.show": route_show,
    "route.offer": route_offer,
    "route.alias": route_alias,
    "route.retry": route_retry,
    "route.explain": route_explain,
}

_A = TypeVar("_A")
_E = TypeVar("_E", bound=StrEnum)


def _asked(payload: Payload, kind: type[_A]) -> _A:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"This cannot be done: {error}.") from None


def _word(kind: type[_E], text: str, field: str) -> _E | None:
    if text and text not in list(kind):
        raise bad_request(f"'{field}' must be one of {', '.join(kind)}, or empty.", field)
    return kind(text) if text else None


def _subject(asked: _Of) -> tuple[RouteScope, str]:
    if (asked.model is None) == (asked.key is None):
        raise bad_request("Name a model or a key.")
    return (RouteScope.KEY, str(asked.key)) if asked.model is None else (RouteScope.MODEL, asked.model)


def _standing(connection: Connection, scope: RouteScope, subject: str) -> Route:
    for rule in catalog.routes_list(connection):
        if (rule.scope, rule.subject) == (scope, subject):
            return rule
    return Route(scope, subject)
