"""MiniMax: reasoning apart from the text only if asked so, its own form of an error, some of them under 200.

Facts: platform.minimax.io (OpenAI dialect, error codes), read 2026-11. Which status comes with which code it does not
say: the codes count under any.
"""

from typing import Any

from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.thinking import WORDS, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of


def fields(asked: Asked) -> dict[str, Any]:
    """It thinks as it finds right, or not at all: a yes, an effort and a budget are all the former."""
    sent = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    sent["reasoning_split"] = True
    wish = thinking_of(asked.upstream, asked.params)
    if wish.on is not None or wish.auto:
        sent["thinking"] = {"type": "disabled" if wish.on is False else "adaptive"}
    return sent


MINIMAX = Vendor(
    fields=fields,
    faults=FaultTable(
        {
            Fault.BAD_REQUEST: "*/1039 */1042 */2013",
            Fault.AUTH: "*/1004 */2049",
            Fault.NO_MONEY: "*/1008",
            Fault.RATE_LIMITED: "*/1002 */1041 */2045",
            Fault.QUOTA: "*/2056",
            Fault.CONTENT: "*/1026 */1027",
            Fault.SERVER: "*/1000 */1001 */1024 */1033",
        },
        STATUSES,
    ),
    completion_path="",
    may_repeat=True,
)
