"""StepFun: what it does differently from OpenAI's dialect.

Its errors have a type and no code, so that the status is most of what there is to go by: 402 is an empty account, 451 a
blocked content. Its thinking has no switch but the effort, and only where the model knows one.
"""

from decimal import Decimal
from typing import Any

import msgspec

from steelyard.kernel.faults import Fault
from steelyard.upstream.balance import Balance, BalanceAt
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.thinking import WORDS, effort_for, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of

FAULTS = FaultTable(
    {
        Fault.AUTH: "*/invalid_api_key",
        Fault.MODEL_MISSING: "*/model_not_found 400/model_invalid",
        Fault.BAD_REQUEST: "*/request_params_invalid",
        Fault.CONTENT: "*/censorship_blocked",
    },
    STATUSES,
)

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class _Account(msgspec.Struct):
    """GET /v1/accounts, in CNY."""

    balance: Decimal
    total_cash_balance: Decimal = Decimal(0)
    total_voucher_balance: Decimal = Decimal(0)


_account = msgspec.json.Decoder(_Account)


def _balance(body: bytes, host: str) -> tuple[Balance, ...]:
    account = _account.decode(body)
    parts = {"cash": f"{account.total_cash_balance:f}", "voucher": f"{account.total_voucher_balance:f}"}
    return (Balance("CNY", f"{account.balance:f}", parts, usable=account.balance > 0),)


def _fields(asked: Asked) -> dict[str, Any]:
    wanted = thinking_of(asked.upstream, asked.params)
    fields = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    if (effort := effort_for(wanted, _EFFORTS)) is not None:
        fields["reasoning_effort"] = effort
    return fields


STEPFUN = Vendor(fields=_fields, faults=FAULTS, completion_path="", balance=BalanceAt("/v1/accounts", _balance))
