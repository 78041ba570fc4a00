"""Tool calls at an engine that does not make them by itself.

A demanded call is a JSON answer whose grammar is the union of the tools' parameter schemas; a call the model may make
is recognised by how its answer begins. Either way the JSON text is handed on as pieces of calls while it comes. Pure.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.records import CallPiece
from steelyard.upstream.plain_turns import Offered

_HEAD = re.compile(r'\s*\[?\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_HEAD_CHARACTERS_MAX = 256
_BEGIN = '{"name":"'
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    function: _Named


_choice = msgspec.json.Decoder(str | _Choice)


def demanded(params: dict[str, Raw], tools: list[Offered]) -> list[Offered]:
    """The tools of which one must be called; empty when none must."""
    raw = params.get("tool_choice")
    choice = "auto" if raw is None else _choice.decode(raw)
    if isinstance(choice, _Choice):
        return [tool for tool in tools if tool.name == choice.function.name]
    return tools if choice == "required" else []


def grammar_of(tools: list[Offered], several: bool) -> dict[str, Any]:
    """The `response_format` under which an answer is a call of one of the tools, or a list of such calls."""
    kinds = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/t{place}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for place, tool in enumerate(tools)
    ]
    schema: dict[str, Any] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if several:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": limits.TOOL_CALLS_MAX}
    schema["$defs"] = {
        f"t{place}": _moved(_object(tool.parameters), f"#/$defs/t{place}") for place, tool in enumerate(tools)
    }
    return {"type": "json_schema", "json_schema": {"name": "calls", "schema": schema}}


def _object(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments are an object, whatever the schema forgot to say."""
    if not parameters:
        return _ANY_OBJECT
    if not parameters.keys() & {"type", "anyOf", "oneOf", "allOf", "$ref"}:
        return {"type": "object", **parameters}
    return parameters


def _moved(schema: Any, root: str) -> Any:
    """The schema with its references into itself pointing to where it stands now."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, root) for name, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


class CallReader:
    """Reads an answer that is (`demanded`) or may be a call: `feed` gives text and pieces of calls.

    Calls look like `{"name": …, "arguments": {…}}`, alone or in a list. A text that begins otherwise stays text.
    """

    def __init__(self, id_prefix: str, tools: list[Offered], *, is_demanded: bool) -> None:
        self._id_prefix = id_prefix
        self._names = {tool.name for tool in tools}
        self._demanded = is_demanded
        self._head = ""  # read, but not yet known to be text or call
        self._is_text = False
        self._depth = 0  # of the arguments being read; 0: outside
        self._in_string = self._escaped = False
        self.calls = 0

    def feed(self, text: str) -> tuple[str, tuple[CallPiece, ...]]:
        """What this text adds."""
        if self._is_text:
            return text, ()
        pieces: list[CallPiece] = []
        place = 0
        while place < len(text):
            if self._depth:
                end = self._arguments_end(text, place)
                pieces.append(CallPiece(self.calls - 1, arguments=text[place:end]))
                place = end
                continue
            self._head += text[place]
            place += 1
            found = _HEAD.search(self._head) if self._head.endswith("{") else None
            if found is not None and (found[1] in self._names):
                pieces.append(CallPiece(self.calls, f"{self._id_prefix}{self.calls}", found[1], "{"))
                self.calls += 1
                self._depth, self._head = 1, ""
            elif not self._demanded and not self.calls and self._must_be_text():
                self._is_text = True
                held, self._head = self._head, ""
                return held + text[place:], ()
        return "", tuple(pieces)

    def rest(self) -> str:
        """At the end of the answer: text that was held back and is no call after all."""
        held, self._head = self._head, ""
        return "" if self.calls or self._demanded else held

    def _must_be_text(self) -> bool:
        begun = "".join(self._head.split()).removeprefix("[")
        if not (_BEGIN.startswith(begun) or begun.startswith(_BEGIN)) or len(self._head) > _HEAD_CHARACTERS_MAX:
            return True
        name, closed, _ = begun.removeprefix(_BEGIN).partition('"')
        return bool(closed) and begun.startswith(_BEGIN) and name not in self._names

    def _arguments_end(self, text: str, place: int) -> int:
        """Where the arguments being read end in this text, or its length."""
        for at in range(place, len(text)):
            letter = text[at]
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._in_string = False
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    return at + 1
        return len(text)
