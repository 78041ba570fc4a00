"""The operations of the admin API that move money: wallets, grants, credit limits, reversals, closed periods.

Each takes an Idempotency-Key, a reason and an actor (the operator key's name unless another is named). Decides nothing.
"""

from typing import Annotated, Any, Literal

import msgspec

from steelyard.gateway.figures import deadline_ns, moment_ns
from steelyard.gateway.operation import PREFIX, AdminHouse, Asked, ByTenant, Call, Operation, Run, commanded

Amount = Annotated[str, msgspec.Meta(description="decimal text such as 12.50")]
Deadline = Annotated[str, msgspec.Meta(description="a date, a time, or how long from now such as 30d")]


class Deed(Asked, kw_only=True):
    """Who does it and why."""

    reason: str = ""
    actor: str | None = None


class TopUp(Deed, kw_only=True):
    """Money for a wallet. `amount` is decimal text: "12.50"."""

    amount: Amount
    note: str = ""


class Refund(Deed, kw_only=True):
    """Money of a wallet that is paid back."""

    amount: Amount


class Adjustment(Deed, kw_only=True):
    """Goodwill or a correction by hand; below zero it takes. Needs a reason."""

    amount: Amount


class GrantGiven(Deed, kw_only=True):
    """Free credit until it is used or expires."""

    amount: Amount
    expires: Deadline


class Transfer(Deed, kw_only=True):
    """Money for another wallet; between currencies with what one unit is worth there, and who says so."""

    to: str
    amount: Amount
    rate: str | None = None
    source: str | None = None


class CreditLimit(Deed, kw_only=True):
    """How far below zero the wallet may go; 0 ends it."""

    amount: Amount


class AllowanceGiven(Deed, kw_only=True):
    """Free credit in every window of a calendar."""

    amount: Amount
    every: Literal["day", "week", "month"]
    zone: str = "UTC"
    week_start: str = "monday"


class CreditBack(Deed, kw_only=True):
    """What was charged for a request, or a part of it, given back. Needs a reason."""

    amount: Amount | None = None


class Close(Deed, kw_only=True):
    """The end of the period: everything before is closed."""

    until: Annotated[str, msgspec.Meta(description="a date or a time")]
    zone: str = "UTC"


class ByBatch(Asked, kw_only=True):
    batch: int


class ByRequestPaid(Asked, kw_only=True):
    request_id: str


def money(op: str) -> Run:
    """The office's money command `op` with all that was sent, its key and who sent it."""

    async def run(house: AdminHouse, call: Call) -> Any:
        payload: dict[str, Any] = {}
        for part in (call.place, call.body):
            payload |= {} if part is None else msgspec.to_builtins(part)
        payload["actor"] = payload.get("actor") or call.operator
        payload["idempotency_key"] = call.header("idempotency-key")
        if "note" in payload and not payload["reason"]:
            del payload["reason"]
        if "expires" in payload:
            payload["expires_ns"] = deadline_ns(payload["expires"], house.clock.now_ns(), "expires")
        if "until" in payload:
            payload["until_ns"] = moment_ns(payload.pop("until"), house.clock.now_ns(), "until", payload["zone"])
        return await house.command(op, {name: value for name, value in payload.items() if value is not None})

    return run


def _post(path: str, name: str, summary: str, op: str, **takes: Any) -> Operation:
    headers = (("Idempotency-Key", "the same key does the same only once"),)
    return Operation("POST", PREFIX + path, name, summary, money(op), status=201, headers=headers, **takes)


_WALLET = "/wallets/{tenant}"
MONEY_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        PREFIX + _WALLET,
        "showWallet",
        "A wallet with its grants",
        commanded("wallet.show"),
        place=ByTenant,
    ),
    _post(_WALLET + "/topups", "topUpWallet", "Put money into a wallet", "wallet.topup", place=ByTenant, body=TopUp),
    _post(
        _WALLET + "/refunds", "refundWallet", "Pay money of a wallet back", "wallet.refund", place=ByTenant, body=Refund
    ),
    _post(_WALLET + "/grants", "grant", "Give expiring free credit", "wallet.grant", place=ByTenant, body=GrantGiven),
    _post(
        _WALLET + "/adjustments",
        "adjustWallet",
        "Add to a wallet or take from it by hand",
        "wallet.adjust",
        place=ByTenant,
        body=Adjustment,
    ),
    _post(
        _WALLET + "/transfers",
        "transfer",
        "Move money to another wallet, converted where currencies differ",
        "wallet.transfer",
        place=ByTenant,
        body=Transfer,
    ),
    _post(
        _WALLET + "/limits",
        "setCreditLimit",
        "Set how far below zero a wallet may go",
        "wallet.limit",
        place=ByTenant,
        body=CreditLimit,
    ),
    _post(
        _WALLET + "/allowances",
        "startAllowance",
        "Give free credit every day, week or month",
        "wallet.allowance",
        place=ByTenant,
        body=AllowanceGiven,
    ),
    Operation(
        "DELETE",
        PREFIX + _WALLET + "/allowances",
        "stopAllowance",
        "Give no further free credit",
        money("wallet.allowance.stop"),
        place=ByTenant,
    ),
    _post(
        "/requests/{request_id}/credits",
        "creditRequest",
        "Give back what a request was charged, or a part",
        "wallet.credit",
        place=ByRequestPaid,
        body=CreditBack,
    ),
    _post(
        "/ledger/batches/{batch}/reversal",
        "reverseBatch",
        "Reverse a batch once",
        "ledger.reverse",
        place=ByBatch,
        body=Deed,
    ),
    _post("/ledger/periods", "closePeriod", "Close everything before a moment", "ledger.close", body=Close),
    Operation("GET", PREFIX + "/ledger/periods", "listPeriods", "Closed periods", commanded("ledger.periods")),
)
