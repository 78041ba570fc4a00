"""Moonshot (Kimi): an empty account under the status of a busy one, counts within the choice, balances as numbers.

Facts: platform.kimi.ai (balance, count of tokens), read 2026-11. What only its clients tell is read, never relied on.
"""

from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.faults import Fault
from steelyard.upstream.balance import Balance, BalanceAt, decimal_text
from steelyard.upstream.counting import CountAt
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.replay import with_reasoning
from steelyard.upstream.thinking import WORDS, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of

_SWITCHES = WORDS - {"reasoning_effort"}


def fields(asked: Asked) -> dict[str, Any]:
    """The switch only if it was set: older models know none. A budget is no word of its own."""
    sent = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    wish = thinking_of(asked.upstream, asked.params)
    if wish.on is False or (wish.on and _SWITCHES & asked.params.keys()):
        sent["thinking"] = {"type": "enabled" if wish.on else "disabled"}
    if wish.effort is not None and wish.on is not False:
        sent["reasoning_effort"] = wish.effort
    if wish.on is not False and "messages" in sent:
        sent["messages"] = with_reasoning(sent["messages"])
    return sent


class _Amounts(msgspec.Struct):
    available_balance: Raw
    voucher_balance: Raw = Raw(b"0")
    cash_balance: Raw = Raw(b"0")


class _Answer(msgspec.Struct):
    data: _Amounts


_answers = msgspec.json.Decoder(_Answer)


def balances_of(body: bytes, host: str) -> tuple[Balance, ...]:
    """In yuan at its host in China, in dollars elsewhere: the answer does not say."""
    data = _answers.decode(body).data
    total = decimal_text(data.available_balance)
    parts = {"voucher": decimal_text(data.voucher_balance), "cash": decimal_text(data.cash_balance)}
    usable = not total.startswith("-") and total.strip("0.") != ""
    return (Balance("USD" if host.endswith(".ai") else "CNY", total, parts, usable),)


MOONSHOT = Vendor(
    fields=fields,
    faults=FaultTable(
        {
            Fault.AUTH: "*/invalid_authentication_error */permission_denied_error",
            Fault.NO_MONEY: "*/exceeded_current_quota_error",
            Fault.RATE_LIMITED: "*/rate_limit_reached_error */engine_overloaded_error",
            Fault.MODEL_MISSING: "*/resource_not_found_error",
            Fault.CONTENT: "*/content_filter",
        },
        STATUSES,
        {"insufficient balance": Fault.NO_MONEY},
    ),
    completion_path="",
    count=CountAt("/tokenizers/estimate-token-count"),
    balance=BalanceAt("/v1/users/me/balance", balances_of),
)
