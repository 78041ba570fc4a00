"""Whether a request asks for thinking, from the canonical fields of every dialect. Pure; decodes only what is there.

What an upstream is told of it, and what it refuses, is `upstream.thinking`; the two agree on what is on and off.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from steelyard.kernel.tariff import Thinking

_decode = msgspec.json.Decoder().decode
_WORDS = frozenset({"thinking", "enable_thinking", "reasoning_effort", "thinking_budget"})


def thinking_of(params: Mapping[str, msgspec.Raw]) -> Thinking:
    """What was said in so many words, else what an effort or a budget implies.

    Where the model is left to choose ("auto", "adaptive") it may think, so thinking is on. What cannot be read says
    nothing: the upstream will refuse it.
    """
    if _WORDS.isdisjoint(params):
        return Thinking.UNSAID
    asked = _read(params, "thinking")
    if isinstance(asked, dict):
        return Thinking.OFF if asked.get("type") == "disabled" else Thinking.ON
    switch = _read(params, "enable_thinking")
    if isinstance(switch, bool):
        return Thinking.ON if switch else Thinking.OFF
    effort = _read(params, "reasoning_effort")
    if isinstance(effort, str):
        return Thinking.OFF if effort == "none" else Thinking.ON
    budget = _read(params, "thinking_budget")
    if isinstance(budget, int):
        return Thinking.ON if budget > 0 else Thinking.OFF
    return Thinking.UNSAID


def _read(params: Mapping[str, msgspec.Raw], name: str) -> Any:
    raw = params.get(name)
    if raw is None:
        return None
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        return None
