"""The content of a Messages request: what a turn may hold, and the canonical turns it becomes.

Results of tools come before the rest of their turn, as the dialect demands. Blocks of tools that run at the vendor are
unknown here, so they are refused by name. Knows no engine and no money.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_tools import Cache, Call, CalledFunction
from steelyard.gateway.chat_turns import OUR_SIGNATURE, FilePart, ImagePart, Part, TextPart, Turn
from steelyard.kernel.errors import bad_request

Id = Annotated[str, Meta(min_length=1, max_length=256)]


class Text(msgspec.Struct, tag="text"):
    text: str
    cache_control: Cache | None = None


class Base64Source(msgspec.Struct, tag="base64"):
    media_type: Annotated[str, Meta(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    data: str


class UrlSource(msgspec.Struct, tag="url"):
    url: str


class TextSource(msgspec.Struct, tag="text"):
    data: str


class Image(msgspec.Struct, tag="image"):
    source: Base64Source | UrlSource
    cache_control: Cache | None = None


class ContentSource(msgspec.Struct, tag="content"):
    content: str | list[Text | Image]


class Citations(msgspec.Struct):
    enabled: bool | None = None


class Document(msgspec.Struct, tag="document"):
    source: Base64Source | TextSource | ContentSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None
    cache_control: Cache | None = None


class Thinking(msgspec.Struct, tag="thinking"):
    """Earlier reasoning. Its signature is a proof to the upstream that made it, and says nothing to others."""

    thinking: str
    signature: str | None = None


class RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    data: str


class ToolUse(msgspec.Struct, tag="tool_use"):
    id: Id
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    input: Raw
    cache_control: Cache | None = None


class ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: Id
    content: str | list[Text | Image | Document] | None = None
    is_error: bool | None = None
    cache_control: Cache | None = None


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[Text | Image | Document | ToolResult]


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[Text | Thinking | RedactedThinking | ToolUse]


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    content: str | list[Text]


Message = UserMessage | AssistantMessage | SystemMessage


class MarkedCall(Call, kw_only=True):
    """A call behind which a cache may end."""

    cache_control: Cache | msgspec.UnsetType = msgspec.UNSET


class Turns:
    """Reads messages in order. `loose` names what the canonical form has no place for and no model here could use."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.places: list[str] = []  # where each turn stood in the request
        self.loose: list[str] = []
        self._called: set[str] = set()

    def system(self, content: str | list[Text]) -> None:
        self._add("system", Turn("system", content if isinstance(content, str) else _parts(content, "system")))

    def _add(self, place: str, turn: Turn) -> None:
        self.places.append(place)
        self.turns.append(turn)

    def take(self, message: Message, place: int) -> None:
        """Raises CallerError 400 that names the block at fault."""
        where = f"messages[{place}].content"
        match message:
            case SystemMessage(content=content):
                self.system(content)
            case UserMessage(content=str(content)):
                self._add(where, Turn("user", content))
            case UserMessage(content=list(content)):
                self._user(content, where)
            case AssistantMessage(content=content):
                self._assistant(content, where)

    def _user(self, blocks: list[Text | Image | Document | ToolResult], where: str) -> None:
        if not blocks:
            raise bad_request(f"'{where}' holds no blocks.", where)
        rest: list[Text | Image | Document] = []
        for number, block in enumerate(blocks):
            if isinstance(block, ToolResult):
                self._add(f"{where}[{number}].content", self._result(block, f"{where}[{number}]"))
            else:
                rest.append(block)
        if rest:
            self._add(where, Turn("user", _parts(rest, where)))

    def _result(self, block: ToolResult, where: str) -> Turn:
        if block.tool_use_id not in self._called:
            at = f"{where}.tool_use_id"
            raise bad_request(f"'{at}' is {block.tool_use_id!r}, but no earlier assistant turn made that call.", at)
        content = _parts(block.content, where) if isinstance(block.content, list) else block.content or ""
        if block.is_error:  # the canonical form has no flag for it: say it in words
            content = f"Error: {content}" if isinstance(content, str) else [TextPart("Error: "), *content]
        if block.cache_control is not None:
            content = [TextPart(content)] if isinstance(content, str) else content
            content[-1] = msgspec.structs.replace(content[-1], cache_control=block.cache_control)
        return Turn("tool", content, tool_call_id=block.tool_use_id)

    def _assistant(self, content: str | list[Text | Thinking | RedactedThinking | ToolUse], where: str) -> None:
        if isinstance(content, str):
            self._add(where, Turn("assistant", content))
            return
        texts: list[Text | Image | Document] = []
        thoughts: list[str] = []
        proved: list[dict[str, Any]] = []
        calls: list[Call] = []
        for number, block in enumerate(content):
            match block:
                case Text():
                    texts.append(block)
                case Thinking(thinking=thinking, signature=signature):
                    thoughts.append(thinking)
                    if signature and not signature.startswith(OUR_SIGNATURE):
                        proved.append({"type": "thinking", "thinking": thinking, "signature": signature})
                case RedactedThinking(data=data):
                    self.loose.append(f"{where}[{number}]")
                    proved.append({"type": "redacted_thinking", "data": data})
                case ToolUse():
                    calls.append(_call(block, f"{where}[{number}]"))
                    self._called.add(block.id)
        said = _parts(texts, where) if texts else None if calls else ""
        reasoning = "\n".join(thoughts) if thoughts else None
        turn = Turn("assistant", said, None, calls or None, None, reasoning, proved or None)
        self._add(where, turn)


def _call(block: ToolUse, where: str) -> Call:
    arguments = bytes(block.input)
    if not arguments.startswith(b"{"):
        raise bad_request(f"'{where}.input' must be an object.", f"{where}.input")
    function = CalledFunction(block.name, arguments.decode())
    if block.cache_control is None:
        return Call(block.id, function)
    return MarkedCall(block.id, function, cache_control=block.cache_control)


def _parts(blocks: "list[Text] | list[Text | Image | Document]", where: str) -> str | list[Part]:
    """Texts in one, a line each, where nothing but texts without marks is there."""
    parts: list[Part] = []
    for number, block in enumerate(blocks):
        parts += _block(block, f"{where}[{number}]")
    if all(isinstance(part, TextPart) and part.cache_control is None for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))
    for part in parts[:-1]:
        if isinstance(part, TextPart):
            part.text += "\n"
    return parts


def _block(block: Text | Image | Document, where: str) -> list[Part]:
    match block:
        case Text(text=text, cache_control=cache):
            return [TextPart(text, cache)]
        case Image(source=source, cache_control=cache):
            return [ImagePart({"url": _url(source)}, cache)]
        case Document():
            return _document(block, where)


def _url(source: Base64Source | UrlSource) -> str:
    return source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"


def _document(block: Document, where: str) -> list[Part]:
    if block.citations is not None and block.citations.enabled:
        raise bad_request(f"'{where}.citations' cannot be given by the models served here.", f"{where}.citations")
    parts: list[Part] = [TextPart(text) for text in (block.title, block.context) if text]
    match block.source:
        case Base64Source():
            parts.append(FilePart({"filename": block.title or "document", "file_data": _url(block.source)}))
        case TextSource(data=text) | ContentSource(content=str(text)):
            parts.append(TextPart(text))
        case ContentSource(content=list(inner)):
            for number, one in enumerate(inner):
                parts += _block(one, f"{where}.source.content[{number}]")
    if block.cache_control is not None and parts:
        parts[-1] = msgspec.structs.replace(parts[-1], cache_control=block.cache_control)
    return parts
