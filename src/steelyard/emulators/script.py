"""What an emulated model says: chosen by the last user's words, before any vendor gives it its form. Deterministic.

`scene: NAME …` asks for what a test wants to see; anybody else's words get an answer about themselves. Every piece is
one token. A prompt has a token for every four bytes, and what stood before its last turn counts as read from a cache.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from steelyard.kernel import limits

BYTES_PER_TOKEN = 4
SCENE = "scene: "


class Call(msgspec.Struct, frozen=True):
    """A tool call; its arguments come in two pieces."""

    id: str
    name: str
    arguments: str

    @property
    def pieces(self) -> tuple[str, str]:
        middle = len(self.arguments) // 2
        return self.arguments[:middle], self.arguments[middle:]


class Script(msgspec.Struct, frozen=True):
    """One answer. `instead`: a fault that is answered in its place; `then`: what happens amid it, after the first
    text: "cut", "hang" or "error". Words of no meaning to the script stand in `scene`, for the vendor to act on."""

    scene: str
    prompt_tokens: int
    cached_tokens: int
    reasoning: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    finish: str = "stop"
    instead: str = ""
    then: str = ""
    is_counted: bool = True

    @property
    def output_tokens(self) -> int:
        """All that is generated, reasoning included."""
        return len(self.reasoning) + len(self.texts) + 2 * len(self.calls)


FAULTS = ("bad_request", "auth", "no_money", "rate_limited", "quota", "content", "model_missing", "server")
"""Scenes of the names of `kernel.faults`: the vendor's own refusal of that class."""

_Said = dict[str, Any]


def _tools(body: Mapping[str, Any]) -> _Said:
    """A call of each tool on offer; once they are answered, an answer."""
    turns = body.get("messages") or [{}]
    if turns[-1].get("role") == "tool":
        return {"texts": _pieces("The tools have answered.")}
    offered = [tool["function"] for tool in body.get("tools") or () if "function" in tool]
    calls = tuple(
        Call(f"call_{place}", tool["name"], json.dumps(_filled(tool.get("parameters") or {})))
        for place, tool in enumerate(offered)
    )
    return {"calls": calls, "finish": "tool_calls"} if calls else {"texts": _pieces("There is no tool.")}


def _filled(schema: Mapping[str, Any]) -> Any:
    """The smallest value that such a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type", "object") == "object":
        return {name: _filled(each) for name, each in schema.get("properties", {}).items()}
    return {"string": "Bern", "integer": 3, "number": 1.5, "boolean": True, "array": []}.get(schema["type"])


def _reasoning(body: Mapping[str, Any]) -> _Said:
    return {"reasoning": ("Let ", "me ", "see."), "texts": ("42",)}


def _hello(body: Mapping[str, Any]) -> _Said:
    return {}


_SCENES: Mapping[str, Callable[[Mapping[str, Any]], _Said]] = {
    "reasoning": _reasoning,
    "repeated": _reasoning,
    "tools": _tools,
    "usage_never": lambda body: {"is_counted": False},
    "cut": lambda body: {"then": "cut"},
    "hang": lambda body: {"then": "hang"},
    "error": lambda body: {"then": "error"},
    **{fault: lambda body, fault=fault: {"instead": fault} for fault in FAULTS},  # type: ignore[misc]
}


def script_of(body: Mapping[str, Any], *, is_thinking: bool) -> Script:
    """What the model says to an order in OpenAI's form: `messages` and `tools`. With tools that are on offer, and no
    scene, they are called once."""
    turns = body.get("messages") or []
    asked = _last_words(turns)
    scene = asked.removeprefix(SCENE).partition(" ")[0] if asked.startswith(SCENE) else ""
    prompt = sum(map(_tokens, turns)) + _tokens(body.get("tools") or [])
    if scene:
        found = _SCENES.get(scene, _hello)(body)
    else:
        found = _tools(body) if body.get("tools") else {"texts": _pieces(_about(asked))}
    said: _Said = found if {"texts", "calls"} & found.keys() else {"texts": ("Hel", "lo"), **found}
    if is_thinking and "reasoning" not in said:
        said["reasoning"] = ("Hm, ", "so.")
    script = Script(scene, prompt, _cached(turns, prompt, scene), **said)
    return capped(script, _cap(body))


def capped(script: Script, cap: int) -> Script:
    """Cut to so many tokens; a cut answer says so."""
    if script.output_tokens <= cap:
        return script
    reasoning = script.reasoning[:cap]
    texts = script.texts[: cap - len(reasoning)]
    return msgspec.structs.replace(script, reasoning=reasoning, texts=texts, calls=(), finish="length")


def _cap(body: Mapping[str, Any]) -> int:
    asked = body.get("max_tokens") or body.get("max_completion_tokens")
    return (
        min(asked, limits.EMULATOR_OUTPUT_TOKENS_MAX) if isinstance(asked, int) else limits.EMULATOR_OUTPUT_TOKENS_MAX
    )


def _cached(turns: list[Any], prompt: int, scene: str) -> int:
    """Of the prompt. `scene: cached` has half of it cached; else what stood there before the last user's turn."""
    if scene == "cached":
        return prompt // 2
    places = [place for place, turn in enumerate(turns) if turn.get("role") == "user"]
    return sum(map(_tokens, turns[: places[-1]])) if len(places) > 1 else 0


def _tokens(part: Any) -> int:
    return 0 if part == [] else max(1, len(msgspec.json.encode(part)) // BYTES_PER_TOKEN)


def _last_words(turns: list[Any]) -> str:
    asked = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), "") or ""
    return asked if isinstance(asked, str) else "".join(part.get("text", "") for part in asked)


def _about(asked: str) -> str:
    words = asked.split()
    return f"You wrote {len(words)} words to an emulated model. The last was {words[-1] if words else 'none'!r}."


def _pieces(text: str) -> tuple[str, ...]:
    words = text.split(" ")
    return (*(f"{word} " for word in words[:-1]), words[-1])
