"""What is wanted of a model's thinking, in whose words ever."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.thinking import Thinking, thinking_of


def wanted(**fields: Any) -> Thinking:
    return thinking_of("vendor", {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()})


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"messages": []}, Thinking()),
        ({"thinking": {"type": "enabled"}}, Thinking(True)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Thinking(True, budget_tokens=2000)),
        ({"thinking": {"type": "disabled"}}, Thinking(False)),
        ({"thinking": {"type": "auto"}}, Thinking(auto=True)),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "low"}, Thinking(auto=True, effort="low")),
        ({"enable_thinking": True}, Thinking(True)),
        ({"enable_thinking": False}, Thinking(False)),
        ({"enable_thinking": True, "thinking_budget": 500}, Thinking(True, budget_tokens=500)),
        ({"thinking_budget": 500}, Thinking(True, budget_tokens=500)),
        ({"thinking_budget": 0}, Thinking(False, budget_tokens=0)),
        ({"reasoning_effort": "none"}, Thinking(False)),
        ({"reasoning_effort": "minimal"}, Thinking(True, effort="minimal")),
        ({"reasoning_effort": "high", "enable_thinking": False}, Thinking(False, effort="high")),
        ({"reasoning_effort": "none", "thinking": {"type": "enabled"}}, Thinking(True)),
    ],
)
def test_every_vendors_words_are_understood(fields: dict[str, Any], thinking: Thinking) -> None:
    assert wanted(**fields) == thinking


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thinking", "enabled"),
        ("thinking", {"type": "perhaps"}),
        ("thinking", {}),
        ("thinking", {"type": ["enabled"]}),
        ("enable_thinking", "yes"),
        ("thinking_budget", "many"),
        ("thinking_budget", True),
        ("thinking_budget", -1),
        ("reasoning_effort", "extreme"),
        ("reasoning_effort", 3),
    ],
)
def test_what_is_no_such_word_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UpstreamError, match=f"'{name}' must be") as caught:
        wanted(**{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
