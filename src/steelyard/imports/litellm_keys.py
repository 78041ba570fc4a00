"""Reads LiteLLM's database of virtual keys: teams and users become tenants, keys come by their hash.

LiteLLM keeps the SHA-256 of a key in hexadecimal digits, as we do, so that keys go on working. It knows budgets but no
money: tenants come without any. Owns its tables (schema.prisma of litellm 1.110.2). A bound that we cannot keep is
never dropped in silence.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, DecimalException
from typing import Any

from steelyard.imports.amounts import plain
from steelyard.imports.foreign_database import Foreign, Row
from steelyard.imports.names import fitting
from steelyard.imports.plan import Plan, Step
from steelyard.imports.price_text import Left
from steelyard.imports.tokens import Tenancy
from steelyard.kernel.clock import NS_PER_S

_KEYS, _TEAMS, _USERS, _BUDGETS = (
    f"LiteLLM_{name}" for name in ("VerificationToken", "TeamTable", "UserTable", "BudgetTable")
)
_CURRENCY = "USD"
_HASH = re.compile(r"[0-9a-f]{64}")
_EVERY = {"1d": "day", "24h": "day", "7d": "week", "1w": "week", "30d": "month", "1mo": "month"}
"""Durations that LiteLLM begins at midnight UTC, on Mondays and on the first of a month."""
_RATES = {"rpm_limit": "rpm", "tpm_limit": "tpm", "max_parallel_requests": "concurrency"}
_OPEN_TO_ALL = {"all-proxy-models", "all-team-models"}
_NANO = Decimal("1e-9")


def litellm_keys_plan(foreign: Foreign, tenancy: Tenancy) -> Plan:
    """Everything that can be brought over. Raises StartError when this is no such database."""
    foreign.refuse_without((_KEYS, _TEAMS), "LiteLLM")
    left: list[Left] = []
    budgets = {str(row["budget_id"]): row for row in foreign.rows(_BUDGETS, "budget_id")}
    owners: dict[str, Row] = {f"team {row['team_id']}": row for row in foreign.rows(_TEAMS, "team_id")}
    owners |= {f"user {row['user_id']}": row for row in foreign.rows(_USERS, "user_id")}
    steps: dict[str, list[Step]] = {}
    for key in foreign.rows(_KEYS, "token"):
        owner = f"team {key['team_id']}" if key.get("team_id") else f"user {key.get('user_id') or ''}"
        what = f"key {key.get('key_name') or 'sk-…'} ({key.get('key_alias') or 'without a name'})"
        if owner not in owners:
            left.append(Left(what, "It belongs to no team and no user."))
        elif owners[owner].get("blocked"):
            left.append(Left(what, f"Its {owner} is blocked."))
        else:
            name = _name(owner, owners[owner], tenancy)
            if owner not in steps:
                steps[owner] = list(_tenant(owner, owners[owner], name, left))
            steps[owner] += _key(owner, _with_budget(key, budgets), f"{what} of {name}", tenancy, left)
    groups = tuple(tuple(found) for found in steps.values())
    note = "Tenants come without money: give them some (steelyard wallet topup) or credit (steelyard wallet limit)."
    return Plan(groups, tuple(left), (note,) if groups else ())


def _name(owner: str, row: Row, tenancy: Tenancy) -> str:
    told = row.get("team_alias") or row.get("user_alias") or row.get("user_email") or owner.partition(" ")[2]
    return fitting(f"{tenancy.prefix}{told}", owner.replace(" ", "-"))


def _with_budget(row: Row, budgets: Mapping[str, Row]) -> Row:
    """A key with what its budget says where it says nothing itself."""
    budget = budgets.get(str(row.get("budget_id")), {})
    return {**row, **{name: value for name, value in budget.items() if row.get(name) is None}}


def _tenant(owner: str, row: Row, name: str, left: list[Left]) -> Iterator[Step]:
    yield Step("tenant", {"id": owner, "name": name, "currency": _CURRENCY}, f"tenant {name}")
    bounds = list(_whole_bounds(row)) + ([] if not _limited(row) else ["it is for some models only"])
    if bounds:
        left.append(Left(f"tenant {name}", f"It comes without its bounds: {'; '.join(bounds)}."))
    yield from _limits(row, {"tenant": owner}, f"tenant {name}")


def _key(owner: str, row: Row, what: str, tenancy: Tenancy, left: list[Left]) -> Iterator[Step]:
    digest = str(row["token"])
    bounds = [*_whole_bounds(row), *_key_bounds(row)]
    if row.get("blocked"):
        left.append(Left(what, "It is blocked."))
    elif _has_ended(row, tenancy):
        left.append(Left(what, "It has ended."))
    elif not _HASH.fullmatch(digest):
        left.append(Left(what, "It is not kept as the SHA-256 of its text."))
    elif bounds and not tenancy.loosen:
        told = "; ".join(bounds)
        left.append(Left(what, f"{told[0].upper()}{told[1:]}: keys here have no such bound. --loosen brings it."))
    else:
        if bounds:
            left.append(Left(what, f"It comes without its bounds: {'; '.join(bounds)}."))
        shown = str(row.get("key_name") or "sk-…")[:32]
        name = fitting(row.get("key_alias"), f"key {digest[:8]}")
        yield Step("key", {"id": digest, "tenant": owner, "name": name, "hash": digest, "shown": shown}, what)
        yield from _limits(row, {"tenant": owner, "key": digest}, what)


def _limits(row: Row, whose: dict[str, Any], what: str) -> Iterator[Step]:
    """Budgets that begin anew with a day, week or month, and rates."""
    found: dict[str, Any] = {
        ours: int(row[theirs]) for theirs, ours in _RATES.items() if row.get(theirs) not in {None, 0}
    }
    budget, every = _amount(row.get("max_budget")), _EVERY.get(str(row.get("budget_duration")))
    if budget and every:
        found |= {"budget": plain(budget), "every": every}
    if found:
        told = ", ".join(f"{name} {value}" for name, value in found.items())
        yield Step("limits", whose | found, f"{what}: {told}")


def _whole_bounds(row: Row) -> Iterator[str]:
    """Bounds of a team, user or key that no limit of ours is."""
    budget, duration = _amount(row.get("max_budget")), row.get("budget_duration")
    if budget is not None and str(duration) not in _EVERY:
        spent = _amount(row.get("spend")) or Decimal(0)
        often = f"every {duration}" if duration else "in all"
        yield f"it may spend {plain(budget)} {_CURRENCY} {often} (spent: {plain(spent.quantize(_NANO))})"
    elif budget == 0:
        yield "its budget is 0"
    if row.get("tpd_limit"):
        yield f"{row['tpd_limit']} tokens a day"
    if _listed(row.get("model_max_budget")) or _listed(row.get("budget_limits")):
        yield "it has budgets for single models"


def _key_bounds(row: Row) -> Iterator[str]:
    if row.get("expires"):
        yield f"it ends on {str(row['expires'])[:10]}"
    if _limited(row):
        yield "it is for some models only"
    routes = _listed(row.get("allowed_routes"))
    if routes and set(routes) != {"llm_api_routes"}:
        yield "it is for some routes only"


def _has_ended(row: Row, tenancy: Tenancy) -> bool:
    """Whether its time is over. Times without a zone are UTC."""
    told = row.get("expires")
    try:
        ends = told if isinstance(told, datetime) else datetime.fromisoformat(str(told))
    except ValueError:
        return False
    ends = ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)
    return ends <= datetime.fromtimestamp(tenancy.now_ns // NS_PER_S, UTC)


def _limited(row: Row) -> bool:
    models = _listed(row.get("models"))
    return bool(models) and not _OPEN_TO_ALL & set(models)


def _listed(value: object) -> list[str]:
    """A list of texts, or the names of an object, also where a database keeps them as text."""
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            return [value]
        return _listed(found) if isinstance(found, list | dict) else []
    return list(map(str, value)) if isinstance(value, list | dict) else []


def _amount(value: object) -> Decimal | None:
    """A double's shortest text is the number that was meant."""
    try:
        number = None if value is None else Decimal(str(value))
    except DecimalException:
        return None
    return number if number is not None and number.is_finite() else None
