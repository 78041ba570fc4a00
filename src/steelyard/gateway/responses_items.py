"""The input of a Responses request: what an item may hold, and the canonical turns it becomes.

An assistant's reasoning, words and calls are items of their own here and one turn in the canonical form. What runs at
the vendor (searches, shells, …) is refused by name. Knows no engine, no money and no database.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from steelyard.gateway.chat_tools import Call, CalledFunction
from steelyard.gateway.chat_turns import AudioPart, FilePart, ImagePart, Part, TextPart, Turn
from steelyard.gateway.responses_seal import unsealed
from steelyard.kernel.errors import CallerError, bad_request


class InputText(msgspec.Struct, tag="input_text"):
    text: str


class OutputText(msgspec.Struct, tag="output_text"):
    text: str


class Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class InputImage(msgspec.Struct, tag="input_image"):
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None


class InputFile(msgspec.Struct, tag="input_file"):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class InputAudio(msgspec.Struct, tag="input_audio"):
    input_audio: dict[str, Any]


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str


class SummaryText(msgspec.Struct, tag="summary_text"):
    text: str


Content = InputText | OutputText | Refusal | InputImage | InputFile | InputAudio | ReasoningText | SummaryText


class Item(msgspec.Struct):
    """Any item; which fields count, its type says. Without a type it is a message, or a reference to a stored item."""

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Content] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    output: str | list[Content] | None = None
    summary: list[Content] | None = None
    encrypted_content: str | None = None

    @property
    def kind(self) -> str:
        return self.type or ("message" if self.role else "item_reference")


class Turns:
    """Reads items in order. `loose` names what says nothing to the models served here."""

    def __init__(self, known: Mapping[str, Item] | None = None) -> None:
        """`known` are stored items that may be referred to, by their ids."""
        self.turns: list[Turn] = []
        self.places: list[str] = []  # where each turn's content stood in the request
        self.loose: list[str] = []
        self._known = known or {}
        self._called: set[str] = set()
        self._thoughts: dict[str, str] = {}  # reasoning that belongs to the assistant's turn to come, by its place
        self._proved: list[dict[str, Any]] = []  # the same, as its upstream signed it
        self._is_open = False  # the last turn is an assistant's that the next item may be part of

    def add(self, turn: Turn, place: str) -> None:
        """A turn that is no assistant's. Reasoning that led to nothing is left out."""
        self.loose += self._thoughts
        self._append(turn, place)

    def _append(self, turn: Turn, place: str) -> None:
        self._thoughts, self._proved, self._is_open = {}, [], turn.role == "assistant"
        self.places.append(place)
        self.turns.append(turn)

    def take(self, item: Item, where: str) -> None:
        """Raises CallerError 400 (404 for an unknown reference) that names the field at fault."""
        match item.kind:
            case "message":
                self._message(item, where)
            case "function_call":
                self._call(item, where)
            case "function_call_output":
                self._result(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "item_reference":
                known = self._known.get(item.id or "")
                if known is None:
                    raise unknown_item(item.id, f"{where}.id")
                self.take(known, where)
            case kind:
                at = f"{where}.type"
                raise bad_request(f"'{at}' is {kind!r}: nothing served here can go on from such an item.", at)

    def _message(self, item: Item, where: str) -> None:
        at = f"{where}.content"
        if item.role is None:
            raise bad_request(f"'{where}.role' is missing.", f"{where}.role")
        if item.content is None:
            raise bad_request(f"'{at}' is missing.", at)
        content = parts_of(item.content, at)
        if item.role != "assistant":
            self.add(Turn("user" if item.role == "user" else "system", content), at)
        elif self._is_open and self.turns[-1].content is None:  # said beside the calls before it
            self.turns[-1].content = content
        else:
            self._assistant(Turn("assistant", content), at)

    def _assistant(self, turn: Turn, place: str) -> None:
        turn.reasoning_content = "\n".join(self._thoughts.values()) if self._thoughts else None
        turn.thinking_blocks = self._proved or None
        self._append(turn, place)

    def _call(self, item: Item, where: str) -> None:
        for name in ("call_id", "name"):
            if not getattr(item, name):
                raise bad_request(f"'{where}.{name}' is missing.", f"{where}.{name}")
        if item.namespace:
            raise bad_request(f"'{where}.namespace': nothing served here knows namespaces.", f"{where}.namespace")
        if not self._is_open:
            self._assistant(Turn("assistant", None), where)
        made = Call(item.call_id or "", CalledFunction(item.name or "", item.arguments or "{}"))
        self.turns[-1].tool_calls = [*(self.turns[-1].tool_calls or ()), made]
        self._called.add(made.id)

    def _result(self, item: Item, where: str) -> None:
        at = f"{where}.call_id"
        if not item.call_id:
            raise bad_request(f"'{at}' is missing.", at)
        if item.call_id not in self._called:
            raise bad_request(f"'{at}' is {item.call_id!r}, but no earlier item made that call.", at)
        if item.output is None:
            raise bad_request(f"'{where}.output' is missing.", f"{where}.output")
        content = parts_of(item.output, f"{where}.output")
        self.add(Turn("tool", content, tool_call_id=item.call_id), f"{where}.output")

    def _reasoning(self, item: Item, where: str) -> None:
        """The words where they are given, else their summary, else what we wrapped. Others' sealed thoughts say nothing
        here."""
        said = item.content if isinstance(item.content, list) else []
        texts = [part.text for part in said or item.summary or () if isinstance(part, ReasoningText | SummaryText)]
        kept = unsealed(item.encrypted_content)
        self._proved += kept.proved
        text = "".join(texts) or kept.text
        if text:
            self._thoughts[where] = self._thoughts.get(where, "") + text
        elif not kept.blocks:
            self.loose.append(where)
        self._is_open = False


def parts_of(content: str | list[Content], where: str) -> str | list[Part]:
    """One text where nothing but texts is there."""
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{where}[{place}]") for place, part in enumerate(content)]
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return parts


def _part(part: Content, where: str) -> Part:
    match part:
        case InputText(text=text) | OutputText(text=text):
            return TextPart(text)
        case Refusal(refusal=text):
            return TextPart(text)
        case InputImage(image_url=url):
            _refuse_file(part.file_id, f"{where}.file_id")
            if not url:
                raise bad_request(f"'{where}.image_url' is missing.", f"{where}.image_url")
            return ImagePart({"url": url, **({"detail": part.detail} if part.detail else {})})
        case InputFile(file_data=data):
            _refuse_file(part.file_id, f"{where}.file_id")
            _refuse_file(part.file_url, f"{where}.file_url")
            if not data:
                raise bad_request(f"'{where}.file_data' is missing.", f"{where}.file_data")
            return FilePart({"filename": part.filename or "document", "file_data": data})
        case InputAudio(input_audio=audio):
            return AudioPart(audio)
        case ReasoningText() | SummaryText():
            raise bad_request(f"'{where}.type': reasoning stands in items of the type 'reasoning'.", f"{where}.type")


def _refuse_file(value: str | None, where: str) -> None:
    if value:
        raise bad_request(f"'{where}' cannot be carried over: send the data itself.", where)


def unknown_item(item_id: str | None, param: str) -> CallerError:
    """404: a reference to an item that is not stored, or not in this project."""
    return CallerError(
        404,
        "item_not_found",
        f"'{param}' refers to {item_id!r}, which is no item of a stored response. Send the item itself.",
        param=param,
    )
