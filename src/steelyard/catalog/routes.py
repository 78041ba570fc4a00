"""Rules of routing, aliases and the bounds of offers in the database.

Every function works in the caller's transaction and changes what a snapshot of the workers says. Decides nothing: how
rules become an order is `routing`.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, delete, insert, select, update

from steelyard.catalog.entry import check_subject
from steelyard.catalog.store import models
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.offers import Offer
from steelyard.kernel.routes import Guard, Policy, Route, Routes, RouteScope
from steelyard.storage import tables

_Bound = Annotated[int, Meta(ge=0, le=limits.RATE_MAX)]


class OfferRule(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator bounds an offer by. What is left out stays as it is; 0 lifts a bound."""

    weight: Annotated[int, Meta(ge=1, le=limits.OFFER_WEIGHT_MAX)] | None = None
    concurrency: _Bound | None = None
    rpm: _Bound | None = None
    tpm: _Bound | None = None
    first_token_s: Annotated[int, Meta(ge=0, le=limits.UPSTREAM_FIRST_BYTE_S)] | None = None


def routes(connection: Connection) -> Routes:
    """All that is in force."""
    rules = routes_list(connection)
    of: dict[RouteScope, dict[str, Route]] = {scope: {} for scope in RouteScope}
    for rule in rules:
        of[rule.scope][rule.subject] = rule
    names = tables.models.c
    query = select(tables.aliases.c.name, names.name.label("model")).join(
        tables.models, names.id == tables.aliases.c.model_id
    )
    return Routes(
        of[RouteScope.MODEL],
        {int(subject): rule for subject, rule in of[RouteScope.KEY].items()},
        {subject: rule.set_ns for subject, rule in of[RouteScope.UPSTREAM].items()},
        {row.name: row.model for row in connection.execute(query.order_by(tables.aliases.c.name))},
    )


def routes_list(connection: Connection) -> list[Route]:
    """Every rule, in the order they were first set."""
    found = []
    for row in connection.execute(select(tables.routes).order_by(tables.routes.c.id)):
        policy, guard = row.policy and Policy(row.policy), row.guard and Guard(row.guard)
        lists = (_listed(row.pinned), _listed(row.fallbacks))
        scope = RouteScope(row.scope)
        found.append(
            Route(scope, row.subject, policy or None, lists[0], guard or None, lists[1], row.set_ns, row.answers_s)
        )
    return found


def put_route(connection: Connection, rule: Route) -> Route:
    """Put a rule in force in the place of what the same subject had. Raises CallerError 400, 404."""
    _check(connection, rule)
    columns = tables.routes.c
    values: dict[str, Any] = {
        "policy": rule.policy or "",
        "pinned": msgspec.json.encode(rule.pinned).decode(),
        "guard": rule.guard or "",
        "fallbacks": msgspec.json.encode(rule.fallbacks).decode(),
        "set_ns": rule.set_ns,
        "answers_s": rule.answers_s,
    }
    place = {"scope": rule.scope.value, "subject": rule.subject}
    standing = (columns.scope == rule.scope.value) & (columns.subject == rule.subject)
    if not connection.execute(update(tables.routes).where(standing).values(values)).rowcount:
        connection.execute(insert(tables.routes).values(place | values))
    return rule


def clear_route(connection: Connection, scope: RouteScope, subject: str) -> bool:
    """Whether there was one."""
    columns = tables.routes.c
    standing = (columns.scope == scope.value) & (columns.subject == subject)
    return bool(connection.execute(delete(tables.routes).where(standing)).rowcount)


def put_alias(connection: Connection, name: str, model: str | None, now_ns: int) -> None:
    """Sell the model under another name as well; without a model the name is given up. Raises CallerError."""
    check_subject(name, lambda sentence: bad_request(f"'name' {sentence}.", "name"))
    columns = tables.aliases.c
    if model is None:
        if not connection.execute(delete(tables.aliases).where(columns.name == name)).rowcount:
            raise CallerError(404, "alias_not_found", f"There is no alias {name!r}.", param="name")
        return
    known = models(connection)
    if name in known:
        raise bad_request(f"{name!r} is a model itself, so it cannot be another one's alias.", "name")
    model_id = _model_of(known, model).id
    values = {"model_id": model_id, "set_ns": now_ns}
    if not connection.execute(update(tables.aliases).where(columns.name == name).values(values)).rowcount:
        connection.execute(insert(tables.aliases).values({"name": name} | values))


def bound_offer(connection: Connection, model: str, upstream: str, rule: OfferRule) -> Offer:
    """Change the bounds of an offer. Raises CallerError 404 without one."""
    found = _model_of(models(connection), model)
    columns = tables.offers.c
    changes = {name: getattr(rule, name) for name in OfferRule.__struct_fields__}
    values = {name: value for name, value in changes.items() if value is not None}
    if not values:
        raise bad_request("Name what to change: weight, concurrency, rpm, tpm or first_token_s.")
    standing = (columns.model_id == found.id) & (columns.upstream == upstream)
    if not connection.execute(update(tables.offers).where(standing).values(values)).rowcount:
        raise CallerError(404, "offer_not_found", f"{model!r} is not offered at {upstream!r}.", param="upstream")
    changed = [one for one in models(connection)[model].offers if one.upstream == upstream]
    if not changed:
        raise CallerError(404, "offer_not_found", f"{model!r} is withdrawn at {upstream!r}.", param="upstream")
    return changed[0]


def _check(connection: Connection, rule: Route) -> None:
    if bool(rule.pinned) != (rule.policy is Policy.PINNED):
        raise bad_request("The policy 'pinned' wants upstreams to pin to, and no other does.", "pinned")
    known = models(connection)
    for name in rule.fallbacks:
        _model_of(known, name)
    if len(rule.fallbacks) > limits.FALLBACKS_MAX:
        raise bad_request(f"'fallbacks' names at most {limits.FALLBACKS_MAX} models.", "fallbacks")
    if len(rule.pinned) > limits.PINNED_MAX:
        raise bad_request(f"'pinned' names at most {limits.PINNED_MAX} upstreams.", "pinned")
    match rule.scope:
        case RouteScope.MODEL:
            _model_of(known, rule.subject)
            if rule.fallbacks or rule.answers_s:
                field = "fallbacks" if rule.fallbacks else "answers_s"
                raise bad_request(f"'{field}' are allowed by a key: its customer pays for them.", field)
        case RouteScope.KEY:
            key = select(tables.keys.c.id).where(tables.keys.c.id == int(rule.subject))
            if connection.execute(key).scalar_one_or_none() is None:
                raise CallerError(404, "key_not_found", f"There is no key {rule.subject}.", param="key")
            if rule.guard is not None:
                raise bad_request("A 'guard' is a model's: it protects us, not the customer.", "guard")
        case RouteScope.UPSTREAM:
            offered = select(tables.offers.c.id).where(tables.offers.c.upstream == rule.subject)
            if connection.execute(offered.limit(1)).scalar_one_or_none() is None:
                sentence = f"There is no upstream {rule.subject!r}."
                raise CallerError(404, "upstream_not_found", sentence, param="upstream")


def _model_of(known: dict[str, Any], name: str) -> Any:
    if name not in known:
        raise CallerError(404, "model_not_found", f"There is no model {name!r}.", param="model")
    return known[name]


def _listed(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
