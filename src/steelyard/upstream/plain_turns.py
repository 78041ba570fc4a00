"""Canonical turns as plain texts, for a chat template that knows only roles and texts.

Tools on offer become a system text, tool calls and their results become turns of assistant and user. What no text can
say (images, recordings, files) is refused by name. Pure; knows no engine.
"""

from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError

_KINDS = {"image_url": "images", "input_audio": "recordings", "file": "files"}


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function


class Turn(msgspec.Struct):
    """What an engine needs to know of a canonical turn."""

    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Offered(msgspec.Struct, frozen=True):
    """A tool on offer, as its definition."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: Offered


_turns = msgspec.json.Decoder(list[Turn])
_tools = msgspec.json.Decoder(list[_Tool])
_encode = msgspec.json.encode


def tools_of(params: dict[str, Raw]) -> list[Offered]:
    """The tools an order offers."""
    raw = params.get("tools")
    return [] if raw is None else [tool.function for tool in _tools.decode(raw)]


def is_plain(messages: Raw) -> bool:
    """Whether the turns are roles and texts for certain, found without reading them: a part or a call needs a second
    list, a result the role of a tool."""
    raw = bytes(messages)
    return raw.count(b"[") == 1 and b'"tool"' not in raw


def turns_in(messages: Raw) -> list[Turn]:
    """The canonical turns of an order."""
    return _turns.decode(messages)


def need_tools(turns: list[Turn]) -> bool:
    """Whether the turns tell of earlier calls."""
    return any(turn.role == "tool" or turn.tool_calls for turn in turns)


def joined(upstream: str, messages: Raw, turns: list[Turn]) -> Raw:
    """The turns with their parts joined to texts, tool calls and results left as they are; for a template that knows
    tools. Raises UpstreamError 400."""
    if not any(isinstance(turn.content, list) for turn in turns):
        return messages
    whole = msgspec.json.decode(messages)
    for place, turn in enumerate(turns):
        whole[place]["content"] = _text(upstream, turn, place)
    return Raw(_encode(whole))


def plain(upstream: str, turns: list[Turn], tools: list[Offered]) -> Raw:
    """The turns as texts, the tools told in the first one. Raises UpstreamError 400."""
    names: dict[str, str] = {}
    told: list[dict[str, str]] = [{"role": "system", "content": offer_text(tools)}] if tools else []
    for place, turn in enumerate(turns):
        role, text = turn.role, _text(upstream, turn, place)
        if turn.tool_calls:
            names |= {call.id: call.function.name for call in turn.tool_calls}
            calls = [
                f'{{"name": "{c.function.name}", "arguments": {c.function.arguments or "{}"}}}' for c in turn.tool_calls
            ]
            text = "\n".join([text, *calls] if text else calls)
        if role == "tool":
            role, text = "user", f"Result of {names.get(turn.tool_call_id or '', 'the call')}: {text}"
        before = told[-1] if told else None
        merged = turn.role == "tool" or (role == "system" and len(told) == 1 and bool(tools))
        if before is not None and merged and before["role"] == role:
            before["content"] += "\n" + text
        else:
            told.append({"role": role, "content": text})
    return Raw(_encode(told))


def offer_text(tools: list[Offered]) -> str:
    """What a system turn says about the tools."""
    return "\n".join(
        [
            "You can call these functions:",
            *(
                _encode({"name": t.name, "description": t.description or "", "parameters": t.parameters or {}}).decode()
                for t in tools
            ),
            'To call one, answer only with JSON: {"name": "the function", "arguments": {…}}',
        ]
    )


def _text(upstream: str, turn: Turn, place: int) -> str:
    content = turn.content
    if content is None or isinstance(content, str):
        return content or ""
    for number, part in enumerate(content):
        if part.type != "text":
            what = _KINDS.get(part.type, part.type)
            raise UpstreamError(
                upstream,
                f"'messages[{place}].content[{number}]': this model reads text only, no {what}.",
                status=400,
                param=f"messages[{place}].content[{number}]",
            )
    return "".join(part.text for part in content)
