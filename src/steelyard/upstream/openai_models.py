"""OpenAI's own models at a server of its dialect: those that reason take another cap, and know an effort only.

Every other model is asked as a server that nobody knows. The errors are OpenAI's, beside those of whoever serves its
dialect: 429 with `insufficient_quota` is an empty account (platform.openai.com, error codes).
"""

import re
from functools import lru_cache
from typing import Any

from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import ANY
from steelyard.upstream.replay import without_reasoning
from steelyard.upstream.strict import AT_HOST
from steelyard.upstream.thinking import WORDS, effort_for, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of

FAULTS = FaultTable(
    {
        Fault.NO_MONEY: "*/billing_not_active",
        Fault.AUTH: """
            */account_deactivated */access_terminated */invalid_organization */mismatched_organization
            */unsupported_country_region_territory */missing_scope
        """,
        Fault.RATE_LIMITED: "503/slow_down 503/engine_overloaded",
        Fault.CONTENT: "*/moderation_blocked */invalid_prompt",
    },
    ANY,
)

_OWN = re.compile(r"o\d|gpt-\d|chatgpt-", re.IGNORECASE)
"""Beginnings of names of its models: none of them takes reasoning back."""

_REASONS = re.compile(r"(o\d|gpt-[5-9])(?!.*-chat)", re.IGNORECASE)
"""Beginnings of names of models that reason: they refuse `max_tokens`."""

_NEVER_OFF = {"o": "low", "gpt-5": "minimal"}
"""Families that cannot be told not to reason, and the least they take; later ones take "none"."""

_EFFORTS = {**{word: word for word in ("minimal", "low", "medium", "high", "xhigh")}, "max": "xhigh"}


@lru_cache(maxsize=256)
def _known(model: str) -> tuple[bool, bool]:
    """Whether it is one of theirs, and whether it reasons."""
    return _OWN.match(model) is not None, _REASONS.match(model) is not None


def _fields(asked: Asked) -> dict[str, Any]:
    fields = fields_of(asked)
    is_theirs, reasons = _known(asked.model)
    if is_theirs and "messages" in fields:
        fields["messages"] = without_reasoning(fields["messages"])
    if not reasons or "prompt" in asked.params:
        return fields
    fields = {name: value for name, value in fields.items() if name not in WORDS}
    fields["max_completion_tokens"] = fields.pop("max_tokens")
    wanted = thinking_of(asked.upstream, asked.params)
    effort = _least(asked.model) if wanted.on is False else effort_for(wanted, _EFFORTS)
    return fields if effort is None else fields | {"reasoning_effort": effort}


def _least(model: str) -> str:
    family = re.match(r"o(?=\d)|gpt-\d+(\.\d+)?", model.lower())
    return _NEVER_OFF.get(family[0] if family else "", "none")


def _is_own(model: str) -> bool:
    return any(_known(model))


OPENAI = Vendor(fields=_fields, faults=FAULTS, is_own=_is_own, at_host=AT_HOST)
