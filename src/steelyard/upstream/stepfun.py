"""StepFun: what it does differently from OpenAI's dialect.

Its errors have a type and no code, so that the status is most of what there is to go by: 402 is an empty account, 451 a
blocked content. Its thinking has no switch but the effort, and only where the model knows one.
"""

from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.faults import Fault
from steelyard.upstream.balance import Balance, BalanceAt, decimal_text
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

    balance: Raw
    total_cash_balance: Raw = Raw(b"0")
    total_voucher_balance: Raw = Raw(b"0")


_accounts = msgspec.json.Decoder(_Account)


def _balances_of(body: bytes, host: str) -> tuple[Balance, ...]:
    account = _accounts.decode(body)
    total = decimal_text(account.balance)
    parts = {"cash": decimal_text(account.total_cash_balance), "voucher": decimal_text(account.total_voucher_balance)}
    usable = not total.startswith("-") and total.strip("0.") != ""
    return (Balance("CNY", total, parts, usable),)


def _fields(asked: Asked) -> dict[str, Any]:
    wanted = thinking_of(asked.upstream, asked.params)
    fields = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    if (effort := effort_for(wanted, _EFFORTS)) is not None:
        fields["reasoning_effort"] = effort
    return fields


STEPFUN = Vendor(fields=_fields, faults=FAULTS, completion_path="", balance=BalanceAt("/v1/accounts", _balances_of))
