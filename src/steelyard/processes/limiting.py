"""The office's commands about sub-limits: set, list, lift.

Owns what may be asked for and whose limit it is. What the teller must learn comes back as seeds, read in the same
transaction. Counting is `ledger.sublimits`.
"""

from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from steelyard.identity import store as identity
from steelyard.kernel import limits
from steelyard.kernel.calendar import WEEKDAYS, Calendar, Every, calendar_from
from steelyard.kernel.clock import Clock, iso_from_ns
from steelyard.kernel.errors import bad_request
from steelyard.kernel.money import INT64_MAX, nano_from_text, text_from_nano
from steelyard.kernel.records import Limit, LimitKind, Scope
from steelyard.ledger.gauges import Seed
from steelyard.ledger.limit_book import Written, limits_in_force, seeds, write_limit

_Count = Annotated[int, Meta(ge=1, le=limits.RATE_MAX)]
_BUDGET_NANO_MAX = INT64_MAX // 1000


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """The subject: a key by its id, or a tenant's project, or the tenant as a whole."""

    tenant: str | None = None
    project: str | None = None
    key: int | None = None
    reason: Annotated[str, Meta(max_length=limits.REASON_CHARACTERS_MAX)] = ""
    actor: Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARACTERS_MAX)] = "operator"


class Set(Whose, frozen=True, kw_only=True):
    """The payload of "limit.set": at least one limit."""

    budget: str | None = None
    every: str = Every.MONTH.value
    zone: str = "UTC"
    week_start: str = WEEKDAYS[0]
    rpm: _Count | None = None
    tpm: _Count | None = None
    concurrency: _Count | None = None


class Lift(Whose, frozen=True, kw_only=True):
    """The payload of "limit.lift". Without `kinds`, all of the subject; `every` picks one of several budgets."""

    kinds: tuple[LimitKind, ...] = ()
    every: Every | None = None


_W = TypeVar("_W", bound=Whose)


class Limited(NamedTuple):
    """What a command answers, and what the teller must learn."""

    reply: Any
    seeds: tuple[Seed, ...] = ()


class _Subject(NamedTuple):
    tenant: identity.Tenant
    scope: Scope
    id: int
    name: str


def limit_set(connection: Connection, payload: dict[str, Any], clock: Clock) -> Limited:
    """Put limits in force, each from now on, counting what the present window has seen already."""
    asked = _asked(payload, Set)
    subject = _subject(connection, asked)
    wanted = _wanted(asked, subject)
    if not wanted:
        raise bad_request("Name a limit to set: a budget, rpm, tpm or concurrency.")
    now_ns = clock.now_ns()
    written = [
        Written(
            write_limit(connection, limit, now_ns, asked.reason, asked.actor),
            subject.tenant.name,
            limit,
            now_ns,
            asked.reason,
            asked.actor,
        )
        for limit in wanted
    ]
    sown = seeds(connection, wanted, now_ns)
    return Limited([_row(one, seed, now_ns) for one, seed in zip(written, sown, strict=True)], tuple(sown))


def limit_list(connection: Connection, payload: dict[str, Any], clock: Clock) -> Limited:
    """All limits in force, or a tenant's, with what is spent of budgets."""
    tenant = payload.get("tenant")
    tenant_id = None if tenant is None else identity.find_tenant(connection, str(tenant)).id
    written, now_ns = limits_in_force(connection, tenant_id), clock.now_ns()
    sown = seeds(connection, [one.limit for one in written], now_ns)
    return Limited([_row(one, seed, now_ns) for one, seed in zip(written, sown, strict=True)])


def limit_lift(connection: Connection, payload: dict[str, Any], clock: Clock) -> Limited:
    """End limits of a subject; those that are not in force are no matter."""
    asked = _asked(payload, Lift)
    subject = _subject(connection, asked)
    now_ns = clock.now_ns()
    ended = []
    for one in limits_in_force(connection, subject.tenant.id):
        limit = one.limit
        wanted = not asked.kinds or limit.kind in asked.kinds
        if (limit.scope, limit.subject_id) != (subject.scope, subject.id) or not wanted:
            continue
        if asked.every is None or limit.every in {"", asked.every}:
            ended.append(msgspec.structs.replace(limit, amount=None))
            write_limit(connection, ended[-1], now_ns, asked.reason, asked.actor)
    reply = {"tenant": subject.tenant.name, "scope": subject.scope, "name": subject.name, "lifted": len(ended)}
    return Limited(reply, tuple(Seed(limit) for limit in ended))


def limit_seeds(connection: Connection, clock: Clock) -> list[Seed]:
    """All limits in force, for a teller that begins."""
    return seeds(connection, [one.limit for one in limits_in_force(connection)], clock.now_ns())


def _asked(payload: dict[str, Any], kind: type[_W]) -> _W:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"The limit cannot be set like this: {error}.") from None


def _subject(connection: Connection, asked: Whose) -> _Subject:
    if asked.key is not None:
        key = identity.find_key(connection, asked.key)
        if key.tenant is None:
            raise bad_request(f"The key {key.id} is an operator's; it asks no model.", "key")
        if asked.tenant not in {None, key.tenant} or asked.project not in {None, key.project}:
            raise bad_request(f"The key {key.id} belongs to {key.tenant}, project {key.project}.", "key")
        return _Subject(identity.find_tenant(connection, key.tenant), Scope.KEY, key.id, key.name)
    if asked.tenant is None:
        raise bad_request("Name a tenant, or a key by its id.", "tenant")
    tenant = identity.find_tenant(connection, asked.tenant)
    if asked.project is not None:
        project_id = identity.find_project(connection, tenant.id, asked.project)
        return _Subject(tenant, Scope.PROJECT, project_id, asked.project)
    return _Subject(tenant, Scope.TENANT, tenant.id, tenant.name)


def _wanted(asked: Set, subject: _Subject) -> list[Limit]:
    tenant_id = subject.tenant.id
    found = [
        Limit(subject.scope, subject.id, tenant_id, subject.name, kind, count)
        for kind, count in (
            (LimitKind.RPM, asked.rpm),
            (LimitKind.TPM, asked.tpm),
            (LimitKind.CONCURRENCY, asked.concurrency),
        )
        if count is not None
    ]
    if asked.budget is not None:
        calendar = calendar_from(asked.every, asked.zone, asked.week_start)
        found.insert(
            0,
            Limit(
                subject.scope,
                subject.id,
                tenant_id,
                subject.name,
                LimitKind.BUDGET,
                _budget_nano(asked.budget),
                subject.tenant.currency,
                calendar.every.value,
                calendar.zone,
                calendar.week_start,
            ),
        )
    return found


def _budget_nano(text: str) -> int:
    try:
        amount = nano_from_text(text)
    except ValueError as error:
        raise bad_request(f"'budget' is not usable: {error}.", "budget") from None
    if not 0 < amount <= _BUDGET_NANO_MAX:
        most = text_from_nano(_BUDGET_NANO_MAX)
        raise bad_request(f"'budget' must be above 0 and at most {most}; 'limit lift' ends one.", "budget")
    return amount


def _row(one: Written, seed: Seed, now_ns: int) -> dict[str, Any]:
    limit = one.limit
    row: dict[str, Any] = {
        "id": one.id,
        "tenant": one.tenant,
        "scope": limit.scope.value,
        "subject_id": limit.subject_id,
        "name": limit.name,
        "kind": limit.kind.value,
        "set_at": iso_from_ns(one.set_ns),
        "reason": one.reason,
        "actor": one.actor,
    }
    if limit.kind is not LimitKind.BUDGET:
        return row | {"amount": limit.amount}
    window = Calendar(Every(limit.every), limit.zone, limit.week_start).window(now_ns)
    return row | {
        "amount_nano": limit.amount,
        "spent_nano": dict(seed.spent).get(window.start_ns, 0),
        "currency": limit.currency,
        "every": limit.every,
        "zone": limit.zone,
        "week_start": WEEKDAYS[limit.week_start],
        "begins_anew": iso_from_ns(window.end_ns),
    }
