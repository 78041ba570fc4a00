"""DeepSeek: thinks unless told not to, in three degrees, and wants its reasoning back in conversations that call tools.

Facts: api-docs.deepseek.com (thinking mode, error codes, balance), read 2026-11.
"""

from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.faults import Fault
from steelyard.upstream.balance import Balance, BalanceAt, decimal_text
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.replay import with_reasoning
from steelyard.upstream.thinking import WORDS, thinking_of
from steelyard.upstream.vendor import ENDS, FAILED, Asked, Ends, Vendor, fields_of

_EFFORTS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "max"}


def fields(asked: Asked) -> dict[str, Any]:
    """Unset stays unset: then it thinks, and hard. A budget is no word of its own: the answer's cap holds."""
    sent = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    wish = thinking_of(asked.upstream, asked.params)
    if wish.on is not None:
        sent["thinking"] = {"type": "enabled" if wish.on else "disabled"}
    if wish.on is not False:
        if wish.effort is not None:
            sent["reasoning_effort"] = _EFFORTS[wish.effort]
        if "messages" in sent:
            sent["messages"] = with_reasoning(sent["messages"])
    return sent


class _Info(msgspec.Struct):
    currency: str
    total_balance: Raw
    granted_balance: Raw = Raw(b"0")
    topped_up_balance: Raw = Raw(b"0")


class _Balances(msgspec.Struct):
    balance_infos: list[_Info]
    is_available: bool = True


_balances = msgspec.json.Decoder(_Balances)


def balances_of(body: bytes, host: str) -> tuple[Balance, ...]:
    """What was granted is used up before what was topped up."""
    read = _balances.decode(body)
    return tuple(
        Balance(
            info.currency,
            decimal_text(info.total_balance),
            {"granted": decimal_text(info.granted_balance), "topped_up": decimal_text(info.topped_up_balance)},
            read.is_available,
        )
        for info in read.balance_infos
    )


DEEPSEEK = Vendor(
    fields=fields,
    faults=FaultTable(
        {},
        STATUSES,
        # One code for everything: what no customer can mend is told by its sentence.
        {
            "insufficient balance": Fault.NO_MONEY,
            "model not exist": Fault.MODEL_MISSING,
            "content exists risk": Fault.CONTENT,
        },
    ),
    ends=Ends(ENDS | {"insufficient_system_resource": FAILED}),
    base="",
    completion_path="",  # its beta has one below another path
    balance=BalanceAt("/user/balance", balances_of),
)
