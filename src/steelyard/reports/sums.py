"""Sums over usage, by whatever one asks for: the figures that overview, margin and usage reports share.

Reads roll-ups where the bounds fall on their edges, usage rows otherwise; both say the same (I3). Amounts of different
currencies are never added: every sum belongs to one currency. Knows no page and no terminal.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, Table, cast, func, select

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_HOUR, day_of, hour_of, iso_from_ns
from steelyard.kernel.frozen import Record
from steelyard.kernel.money import divide_half_even
from steelyard.ledger.accounts import OVERRUN
from steelyard.ledger.chain import SUMMED
from steelyard.storage import tables

DAY_NS = 24 * NS_PER_HOUR


class By(StrEnum):
    """What usage can be grouped by. Days are UTC days of the close."""

    MODEL = "model"
    TENANT = "tenant"
    KEY = "key"
    DAY = "day"


class Totals(Record, frozen=True):
    """What requests used, earned and cost, in one currency. Token buckets are disjoint."""

    currency: str
    requests: int = 0
    input: int = 0  # prompt tokens computed afresh
    cached_input: int = 0
    output: int = 0
    cpu_ns: int = 0
    energy_uj: int = 0
    charge_nano: int = 0  # revenue
    cost_nano: int = 0  # CPU, energy and vendors
    overrun_nano: int = 0  # the part of `charge_nano` above the holds: booked as our expense, not taken from wallets
    margin_nano: int = 0  # charge − cost − overrun
    cache_write: int = 0
    reasoning: int = 0
    reused_input: int = 0  # of answers that had been given before
    reused_output: int = 0
    measured_uj: int = 0  # so much of the energy was measured; the rest is modelled

    @property
    def prompt(self) -> int:
        """Prompt tokens, those read from a cache and written to one included."""
        return self.input + self.cached_input + self.cache_write + self.reused_input

    @property
    def generated(self) -> int:
        """All output tokens, reasoning included."""
        return self.output + self.reasoning + self.reused_output

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated

    @property
    def energy_per_token_uj(self) -> int | None:
        """Microjoules per output token, the work on prompts included; None when nothing was generated."""
        return divide_half_even(self.energy_uj, self.generated) if self.generated else None


class Group(Record, frozen=True):
    """One row of a report. `id` is the tenant's or key's id, or the day's start in ns; None for a model."""

    name: str  # model, tenant, key name, or "2026-11-23"
    id: int | None
    note: str  # of a key: "tenant/project sk-sy-abc…"; otherwise empty
    totals: Totals


class Report(Record, frozen=True):
    """Groups (largest charge first; days in order) and the totals per currency of everything, shown or left off."""

    by: By
    since_ns: int | None
    until_ns: int | None
    groups: tuple[Group, ...]
    totals: tuple[Totals, ...]
    left_off: int  # groups beyond the limit


class Scope(NamedTuple):
    """Which requests count: closed in [since, until), of one tenant or of all."""

    since_ns: int | None = None
    until_ns: int | None = None
    tenant_id: int | None = None


def report(connection: Connection, by: By, scope: Scope, limit: int = limits.PAGE_ROWS_MAX) -> Report:
    """The requests of the scope, grouped."""
    found = _sums(connection, by, scope)
    if by is By.DAY:
        ordered = sorted(found, key=lambda place: (place.currency, place.group))
    else:
        ordered = sorted(found, key=lambda place: (place.currency, -found[place].charge_nano, place.group))
    shown = ordered[: max(0, limit)]
    names = _names(connection, by, {place.group for place in shown})
    groups = tuple(
        Group(
            name=names[place.group][0],
            id=place.group if isinstance(place.group, int) else None,
            note=names[place.group][1],
            totals=found[place],
        )
        for place in shown
    )
    return Report(by, scope.since_ns, scope.until_ns, groups, add_up(found.values()), len(ordered) - len(shown))


def add_up(several: Iterable[Totals]) -> tuple[Totals, ...]:
    """One sum per currency, by currency."""
    sums: dict[str, dict[str, int]] = {}
    for one in several:
        into = sums.setdefault(one.currency, dict.fromkeys(_ADDED, 0))
        for name in _ADDED:
            into[name] += getattr(one, name)
    return tuple(Totals(currency, **sums[currency]) for currency in sorted(sums))


_ADDED = tuple(name for name in Totals.__struct_fields__ if name != "currency")


def whole(expression: ColumnElement[Any]) -> ColumnElement[int]:
    """The sum of a column as an integer, 0 over no rows (PostgreSQL would answer a decimal)."""
    return cast(func.coalesce(func.sum(expression), 0), BigInteger)


class _Place(NamedTuple):
    group: Any  # model name, or an id, or the start of a day
    currency: str


def _sums(connection: Connection, by: By, scope: Scope) -> dict[_Place, Totals]:
    overruns = {
        _Place(row.grouped_by, row.currency): row.overrun_nano for row in connection.execute(_overruns(by, scope))
    }
    found: dict[_Place, Totals] = {}
    for row in connection.execute(_usage(by, scope)):
        place = _Place(row.grouped_by, row.currency)
        overrun_nano = overruns.get(place, 0)
        found[place] = Totals(
            currency=row.currency,
            requests=row.requests,
            input=row.input,
            cached_input=row.cached_input,
            output=row.output,
            cpu_ns=row.cpu_ns,
            energy_uj=row.energy_uj,
            charge_nano=row.charge_nano,
            cost_nano=row.cost_nano,
            overrun_nano=overrun_nano,
            margin_nano=row.charge_nano - row.cost_nano - overrun_nano,
            cache_write=row.cache_write,
            reasoning=row.reasoning,
            reused_input=row.reused_input,
            reused_output=row.reused_output,
            measured_uj=row.measured_uj,
        )
    return found


def _usage(by: By, scope: Scope) -> Select[Any]:
    """Sums from the coarsest source that knows the answer."""
    grain = _grain(by, scope)
    source: Table = tables.rollups if grain else tables.usage
    columns = source.c
    moment = columns.start_ns if grain else columns.closed_ns
    requests = whole(columns.requests) if grain else func.count()
    spent = tables.usage.c
    cost = columns.cost_nano if grain else spent.cpu_cost_nano + spent.energy_cost_nano + spent.vendor_cost_nano
    query = select(
        _group(by, source, moment).label("grouped_by"),
        columns.currency,
        requests.label("requests"),
        *(whole(columns[name]).label(name) for name in SUMMED),
        whole(cost).label("cost_nano"),
    ).group_by("grouped_by", columns.currency)
    query = _within(query, source, moment, scope)
    return query.where(columns.grain == grain) if grain else query


def _overruns(by: By, scope: Scope) -> Select[Any]:
    """What was charged above the holds. Rare: only batches that posted to an overrun account are looked at."""
    usage, entries, accounts = tables.usage.c, tables.entries.c, tables.accounts.c
    batches = (
        select(entries.batch_id)
        .join_from(tables.entries, tables.accounts, accounts.id == entries.debit_account_id)
        .where(accounts.kind == OVERRUN.name)
    )
    query = (
        select(
            _group(by, tables.usage, usage.closed_ns).label("grouped_by"),
            usage.currency,
            whole(usage.charge_nano - usage.hold_nano).label("overrun_nano"),
        )
        .where(usage.batch_id.in_(batches), usage.charge_nano > usage.hold_nano)
        .group_by("grouped_by", usage.currency)
    )
    return _within(query, tables.usage, usage.closed_ns, scope)


def _grain(by: By, scope: Scope) -> str | None:
    """The roll-up whose edges the bounds fall on; None asks for usage rows."""
    bounds = [bound for bound in (scope.since_ns, scope.until_ns) if bound is not None]
    if by is By.KEY or any(hour_of(bound) != bound for bound in bounds):
        return None
    return "hour" if any(day_of(bound) != bound for bound in bounds) else "day"


def _group(by: By, source: Table, moment: ColumnElement[int]) -> ColumnElement[Any]:
    match by:
        case By.MODEL:
            return source.c.model
        case By.TENANT:
            return source.c.tenant_id
        case By.KEY:
            return source.c.key_id
        case By.DAY:
            return moment - moment % DAY_NS
        case _:
            assert_never(by)


def _within(query: Select[Any], source: Table, moment: ColumnElement[int], scope: Scope) -> Select[Any]:
    if scope.since_ns is not None:
        query = query.where(moment >= scope.since_ns)
    if scope.until_ns is not None:
        query = query.where(moment < scope.until_ns)
    if scope.tenant_id is not None:
        query = query.where(source.c.tenant_id == scope.tenant_id)
    return query


def _names(connection: Connection, by: By, groups: set[Any]) -> dict[Any, tuple[str, str]]:
    """Name and note of each group."""
    match by:
        case By.MODEL:
            return {group: (group, "") for group in groups}
        case By.DAY:
            return {group: (iso_from_ns(group)[:10], "") for group in groups}
        case By.TENANT:
            columns = tables.tenants.c
            query: Select[Any] = select(columns.id, columns.name).where(columns.id.in_(groups))
            known = {row.id: (row.name, "") for row in connection.execute(query)}
        case By.KEY:
            known = _key_names(connection, groups)
        case _:
            assert_never(by)
    return {group: known.get(group, (f"#{group}", "")) for group in groups}


def _key_names(connection: Connection, key_ids: set[int]) -> dict[int, tuple[str, str]]:
    keys, projects, tenants = tables.keys.c, tables.projects.c, tables.tenants.c
    query = (
        select(keys.id, keys.name, keys.shown, projects.name.label("project"), tenants.name.label("tenant"))
        .select_from(tables.keys.join(tables.projects).join(tables.tenants))
        .where(keys.id.in_(key_ids))
    )
    return {row.id: (row.name, f"{row.tenant}/{row.project} {row.shown}") for row in connection.execute(query)}
