"""The operations of the admin API about sub-limits of tenants, projects and keys. Decides nothing."""

from typing import Any, Literal

import msgspec

from steelyard.gateway.operation import PREFIX, AdminHouse, Asked, Call, Operation, Run, commanded
from steelyard.kernel.calendar import Every
from steelyard.kernel.records import LimitKind


class LimitsOf(Asked):
    """Whose limits."""

    tenant: str | None = None


class Whose(Asked, kw_only=True):
    """A key by its id, or a tenant's project, or the tenant as a whole; why, and who decided it."""

    tenant: str | None = None
    project: str | None = None
    key: int | None = None
    reason: str = ""
    actor: str | None = None


class NewLimits(Whose, kw_only=True):
    """Limits in place of those of the same kind; `budget` is decimal text: "20.00"."""

    budget: str | None = None
    every: Every = Every.MONTH
    zone: str = "UTC"
    week_start: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "monday"
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class LiftedLimits(Whose, kw_only=True):
    """Which limits end: without `kinds` all of the tenant, project or key."""

    kinds: tuple[LimitKind, ...] = ()
    every: Every | None = None


def _decided(op: str) -> Run:
    """The office's command; who decided it is the operator's key unless another is named."""

    async def run(house: AdminHouse, call: Call) -> Any:
        payload = {name: value for name, value in msgspec.to_builtins(call.body).items() if value is not None}
        return await house.command(op, {"actor": call.operator} | payload)

    return run


LIMIT_OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", f"{PREFIX}/limits", "listLimits", "Limits in force", commanded("limit.list"), query=LimitsOf),
    Operation(
        "POST",
        f"{PREFIX}/limits",
        "setLimits",
        "Set budgets, requests and tokens a minute, requests at the same time",
        _decided("limit.set"),
        status=201,
        body=NewLimits,
    ),
    Operation("POST", f"{PREFIX}/limits/lift", "liftLimits", "End limits", _decided("limit.lift"), body=LiftedLimits),
)
