"""Gemini in its OpenAI dialect: what it does differently.

Its counts have what was thought in the total alone, though it is billed as output. Its errors come in a list, and say
what they are by a status word and a reason in the details: a wrong key is a 400. Gemini 3 refuses a call that comes
back without the thought it was signed with; where the customer has not kept it, calls go under the word that Google
documents for those made elsewhere (ai.google.dev: OpenAI compatibility, thought signatures).
"""

from typing import Any

import msgspec

from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.proofs import without_proofs
from steelyard.upstream.replay import without_reasoning
from steelyard.upstream.thinking import WORDS, effort_for, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of

FAULTS = FaultTable(
    {
        Fault.AUTH: "*/API_KEY_INVALID */API_KEY_SERVICE_BLOCKED */UNAUTHENTICATED */PERMISSION_DENIED",
        Fault.NO_MONEY: "*/BILLING_DISABLED */FAILED_PRECONDITION",
        Fault.MODEL_MISSING: "*/NOT_FOUND",
        Fault.CONTENT: "*/PROHIBITED_CONTENT */SAFETY",
        Fault.QUOTA: "*/QUOTA_PER_DAY",
        Fault.RATE_LIMITED: "*/RESOURCE_EXHAUSTED",
        Fault.BAD_REQUEST: "*/INVALID_ARGUMENT */OUT_OF_RANGE",
        Fault.SERVER: "*/INTERNAL */UNAVAILABLE */DEADLINE_EXCEEDED",
    },
    STATUSES,
)
"""The reason in an error's details goes before its status word, and that before the status."""

_NO_SIGNATURE = "skip_thought_signature_validator"
_EFFORTS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_turns = msgspec.json.Decoder(list[dict[str, Any]])


def _fields(asked: Asked) -> dict[str, Any]:
    wanted = thinking_of(asked.upstream, asked.params)
    fields = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    turns = without_reasoning(asked.params["messages"])
    signed = b'"tool_calls"' in bytes(turns)
    fields["messages"] = [_signed(turn) for turn in _turns.decode(turns)] if signed else without_proofs(turns)
    if wanted.on is False:
        fields["reasoning_effort"] = "none"
    elif (effort := effort_for(wanted, _EFFORTS)) is not None:
        fields["reasoning_effort"] = effort
    return fields


def _signed(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose first call has a signature: its own where the customer kept it, else the word for none."""
    turn = {name: value for name, value in turn.items() if name != "thinking_blocks"}
    calls = turn.get("tool_calls")
    if not calls or calls[0].get("extra_content"):
        return turn
    first = {**calls[0], "extra_content": {"google": {"thought_signature": _NO_SIGNATURE}}}
    return {**turn, "tool_calls": [first, *calls[1:]]}


GEMINI = Vendor(fields=_fields, faults=FAULTS, base="/v1beta/openai", completion_path="", hides_thoughts=True)
