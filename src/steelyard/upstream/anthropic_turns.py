"""Canonical turns as messages of Anthropic's dialect: alternating, results of tools first, thinking as it was signed.

What no block can say is refused by name. Keeps where each block came from, so that a refusal of the vendor's can be
told about the turn that the customer sent. Pure; knows no engine and no money.
"""

import hashlib
import re
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.upstream.whose import not_carried

OUR_SIGNATURE = "steelyard_"
"""How the gateway signs thinking of models that do not sign it; nobody else takes it for a proof."""

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)

Block = dict[str, Any]


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    image_url: dict[str, Any] | None = None
    file: dict[str, Any] | None = None
    cache_control: Block | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str
    function: _Function
    cache_control: Block | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None


class Message(msgspec.Struct):
    """One message in the making; `places` has the canonical turn of each block."""

    role: str
    content: list[Block]
    places: list[int]


_turns = msgspec.json.Decoder(list[_Turn])


class Turns:
    """Reads canonical turns in order."""

    def __init__(self, upstream: str) -> None:
        self.system: list[Block] = []
        self.system_places: list[int] = []
        self.messages: list[Message] = []
        self.called: dict[str, None] = {}  # names of the tools that were called, in order
        self._upstream = upstream

    def take(self, raw: Raw) -> None:
        """Raises UpstreamError 400 that names the turn at fault."""
        for place, turn in enumerate(_turns.decode(raw)):
            where = f"messages[{place}]"
            if turn.name is not None and turn.role != "tool":
                raise not_carried(self._upstream, f"{where}.name", "this model knows no names of participants")
            match turn.role:
                case "system" if not self.messages:
                    blocks = self._blocks(turn.content, where)
                    self.system += blocks
                    self.system_places += [place] * len(blocks)
                case "assistant":
                    self._add("assistant", self._assistant(turn, where), place)
                case "tool":
                    self._result(turn, place)
                case role:
                    blocks = self._blocks(turn.content, where)
                    if not blocks:
                        raise not_carried(self._upstream, f"{where}.content", "it is empty")
                    self._add(role, blocks, place)

    def _add(self, role: str, blocks: list[Block], place: int) -> None:
        """Neighbours of one role become one message: the dialect wants roles to alternate."""
        if not blocks:
            return  # an assistant's turn that says nothing
        if not self.messages or self.messages[-1].role != role:
            self.messages.append(Message(role, [], []))
        last = self.messages[-1]
        last.content += blocks
        last.places += [place] * len(blocks)

    def _result(self, turn: _Turn, place: int) -> None:
        """Results answer the calls of the message before: they stand before what else the user says there."""
        content = turn.content
        block: Block = {"type": "tool_result", "tool_use_id": call_id(turn.tool_call_id or "")}
        if isinstance(content, str):
            block["content"] = content
        elif content:
            block["content"] = self._blocks(content, f"messages[{place}]")
            if content[-1].cache_control is not None and block["content"]:  # it was the result's own
                block["cache_control"] = block["content"][-1].pop("cache_control", content[-1].cache_control)
        if not self.messages or self.messages[-1].role != "user":
            self.messages.append(Message("user", [], []))
        last = self.messages[-1]
        results = sum(1 for one in last.content if one["type"] == "tool_result")
        last.content.insert(results, block)
        last.places.insert(results, place)

    def _assistant(self, turn: _Turn, where: str) -> list[Block]:
        """Thinking first, as it came, if its upstream signed it; other reasoning has no place in this dialect."""
        blocks = [block for block in turn.thinking_blocks or () if is_signed(block)]
        blocks += self._blocks(turn.content, where)
        for number, call in enumerate(turn.tool_calls or ()):
            self.called[call.function.name] = None
            block: Block = {
                "type": "tool_use",
                "id": call_id(call.id),
                "name": call.function.name,
                "input": self._input(call, f"{where}.tool_calls[{number}].function.arguments"),
            }
            blocks.append(_marked(block, call.cache_control))
        return blocks

    def _input(self, call: _Call, where: str) -> Raw:
        text = call.function.arguments.strip() or "{}"
        try:
            msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise not_carried(self._upstream, where, "this model takes an object in JSON only") from None
        return Raw(text.encode())

    def _blocks(self, content: str | list[_Part] | None, where: str) -> list[Block]:
        """Empty texts say nothing and are not sent: the dialect refuses them."""
        if isinstance(content, str) or content is None:
            return [{"type": "text", "text": content}] if content else []
        blocks: list[Block] = []
        for part in content:
            if part.type != "text" or part.text:
                blocks.append(_marked(self._block(part, f"{where}.content"), part.cache_control))
        return blocks

    def _block(self, part: _Part, where: str) -> Block:
        match part.type:
            case "text":
                return {"type": "text", "text": part.text}
            case "image_url":
                return {"type": "image", "source": self._image((part.image_url or {}).get("url"), where)}
            case "file":
                return self._document(part.file or {}, where)
            case _:
                raise not_carried(self._upstream, where, f"parts of the type {part.type!r} are not read by this model")

    def _image(self, url: Any, where: str) -> Block:
        if isinstance(url, str) and (found := _DATA_URL.fullmatch(url)):
            return {"type": "base64", "media_type": found[1], "data": found[2]}
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            return {"type": "url", "url": url}
        raise not_carried(self._upstream, where, "an image is an address or a base64 data URL")

    def _document(self, file: dict[str, Any], where: str) -> Block:
        found = _DATA_URL.fullmatch(file["file_data"]) if isinstance(file.get("file_data"), str) else None
        if found is None:
            raise not_carried(self._upstream, where, "a file is a base64 data URL in 'file_data'")
        source = {"type": "base64", "media_type": found[1], "data": found[2]}
        name = file.get("filename")
        return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) else {})}


def is_signed(block: dict[str, Any]) -> bool:
    """Whether a block of thinking can be handed back: its upstream wants to see its own proof."""
    match block.get("type"):
        case "thinking":
            signature = block.get("signature")
            return isinstance(signature, str) and bool(signature) and not signature.startswith(OUR_SIGNATURE)
        case "redacted_thinking":
            return bool(block.get("data"))
        case _:
            return False


def call_id(text: str) -> str:
    """An id this dialect takes: the same for a call and its result, and the call's own wherever that will do."""
    if _CALL_ID.fullmatch(text):
        return text
    return "call_" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _marked(block: Block, cache_control: Block | None) -> Block:
    if cache_control is not None:
        block["cache_control"] = cache_control
    return block
