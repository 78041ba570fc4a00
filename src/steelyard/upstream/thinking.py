"""What a customer wants of a model's thinking, from any of the words vendors have for it; adapters say it in their own.

`thinking` is Anthropic's, Ark's, DeepSeek's and Zhipu's word, `enable_thinking` and `thinking_budget` are DashScope's,
`reasoning_effort` is OpenAI's and Gemini's. What was said in so many words goes before what an effort implies. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault

WORDS = frozenset({"thinking", "enable_thinking", "thinking_budget", "reasoning_effort"})
"""The fields that are read here, for adapters to leave out of what they pass on."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Every effort there is a word for, least first."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """What is wanted. None: nothing was said."""

    on: bool | None = None
    auto: bool = False  # it was said that the model shall choose; `on` is None then
    budget_tokens: int | None = None  # at most so many tokens
    effort: str | None = None  # one of EFFORTS but "none", which is `on` False


def thinking_of(upstream: str, params: dict[str, Raw]) -> Thinking:
    """Raises UpstreamError 400 that names a field which is none of what it may be."""
    if not WORDS & params.keys():
        return _NOTHING
    said = _value(params, "thinking")
    switch = _value(params, "enable_thinking")
    budget = _value(params, "thinking_budget")
    effort = _value(params, "reasoning_effort")
    if said is not None and not (isinstance(said, dict) and str(said.get("type")) in _SWITCH):
        raise _wrong(upstream, "thinking", "an object whose 'type' is enabled, disabled, adaptive or auto")
    if switch is not None and not isinstance(switch, bool):
        raise _wrong(upstream, "enable_thinking", "true or false")
    if effort is not None and effort not in EFFORTS:
        raise _wrong(upstream, "reasoning_effort", f"one of {', '.join(EFFORTS)}")
    if budget is None and said is not None:
        budget = said.get("budget_tokens")
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget < 0):
        raise _wrong(upstream, "thinking_budget", "a number of tokens")
    on = _SWITCH[said["type"]] if said is not None else switch
    auto = said is not None and on is None
    if on is None and not auto:
        if effort is not None:
            on = effort != "none"
        elif budget is not None:
            on = budget > 0
    return Thinking(on, auto, budget, None if effort == "none" else effort)


def effort_for(wanted: Thinking, known: Mapping[str, str]) -> str | None:
    """A vendor's own word for an effort, where it has one (`known`) and thinking is not switched off; a budget becomes
    the effort that comes near it. None: there is nothing to say."""
    if wanted.on is False:
        return None
    effort = wanted.effort
    if effort is None and wanted.budget_tokens:
        effort = next((word for most, word in _BUDGETS if wanted.budget_tokens <= most), "high")
    return known.get(effort) if effort is not None else None


_NOTHING = Thinking()
_BUDGETS = ((1024, "low"), (8192, "medium"))
"""Gemini's own scale for its two dialects: low 1,024, medium 8,192, high 24,576 tokens (ai.google.dev, OpenAI
compatibility)."""
_SWITCH: dict[str, bool | None] = {"enabled": True, "disabled": False, "auto": None, "adaptive": None}


def _value(params: dict[str, Raw], name: str) -> Any:
    raw = params.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def _wrong(upstream: str, name: str, what: str) -> UpstreamError:
    error = UpstreamError(upstream, f"'{name}' must be {what}.", status=400, param=name)
    return error.known_as(Fault.BAD_REQUEST)
