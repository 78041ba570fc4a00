"""The output items of a response in the making, and the events that tell of them.

Owns their order: reasoning, words and calls are items one after another; an item is done before the next begins, but
for calls whose arguments are still coming. Both forms of an answer are made from this, so that they hold the same.
Pure; makes no bytes.
"""

from typing import Any

import msgspec

from steelyard.gateway.responses_seal import sealed
from steelyard.kernel.records import CallPiece, Event

Told = tuple[str, dict[str, Any]]
"""An event: its type and its fields but for the sequence number."""


class _Open:
    """An item that is not done. `said` are the pieces of what is growing in it."""

    __slots__ = ("blocks", "index", "item", "logprobs", "part", "said", "unproved")

    def __init__(self, index: int, item: dict[str, Any]) -> None:
        self.index = index
        self.item = item
        self.part: dict[str, Any] | None = None  # of a message or of reasoning
        self.said: list[str] = []
        self.logprobs: list[Any] = []
        self.unproved: list[str] = []  # reasoning whose block has not ended
        self.blocks: list[dict[str, Any]] = []  # reasoning as its upstream signed it

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class Output:
    """One answer's items. `told` gathers events until they are taken."""

    def __init__(self, request_id: bytes, *, is_summarised: bool = False, is_sealed: bool = False) -> None:
        self.items: list[dict[str, Any]] = []
        self.told: list[Told] = []
        self._digits = request_id.hex()
        self._is_summarised = is_summarised
        self._is_sealed = is_sealed
        self._current: _Open | None = None  # the open message or reasoning
        self._calls: dict[int, _Open] = {}  # open calls by their index
        self._closed: set[int] = set()

    def take(self, event: Event) -> None:
        """Add what an event says."""
        if event.reasoning:
            self._think(event.reasoning)
        if event.signature or event.redacted:
            self._prove(event)
        if event.text or event.logprobs is not None:
            self._say(event.text, event.logprobs)
        if event.refusal:
            self._refuse(event.refusal)
        for piece in event.tool_calls:
            self._call(piece)

    def taken(self) -> list[Told]:
        """The events since the last time."""
        told, self.told = self.told, []
        return told

    def finish(self, status: str) -> None:
        """Close what is open. `status` is "completed", or "incomplete" for an answer that was cut."""
        if not self.items and status == "completed":
            self._say("", None)  # clients look for a first item
        self._close_current(status)
        for index in list(self._calls):
            self._close_call(index, status)

    def abandon(self) -> None:
        """The answer has failed: what is open stays as it is, and no event says that it were done."""
        for one in [*self._calls.values(), *([self._current] if self._current else [])]:
            _fill(one)
            one.item["status"] = "incomplete"

    # --- reasoning and words ------------------------------------------------------------------------------------

    def _think(self, text: str) -> None:
        current = self._reasoning()
        if current.part is None:
            kind, where = ("summary_text", "summary") if self._is_summarised else ("reasoning_text", "content")
            self._begin_part(current, where, {"type": kind, "text": ""})
        current.said.append(text)
        current.unproved.append(text)
        name = "reasoning_summary_text" if self._is_summarised else "reasoning_text"
        self._tell(f"{name}.delta", **current.place, **self._part_index(current), delta=text)

    def _reasoning(self) -> _Open:
        """The open reasoning."""
        current = self._current
        if current is None or current.item["type"] != "reasoning":
            current = self._begin({"id": self._id("rs"), "type": "reasoning", "status": "in_progress", "summary": []})
        return current

    def _prove(self, event: Event) -> None:
        """A block of reasoning ends that its upstream wants back as it is."""
        current = self._reasoning()
        if event.redacted:
            current.blocks.append({"type": "redacted_thinking", "data": event.redacted})
            return
        thinking = "".join(current.unproved)
        current.unproved.clear()
        current.blocks.append({"type": "thinking", "thinking": thinking, "signature": event.signature})

    def _say(self, text: str, logprobs: msgspec.Raw | None) -> None:
        current = self._message("output_text", {"type": "output_text", "annotations": [], "logprobs": [], "text": ""})
        chances = [] if logprobs is None else [_chance(one) for one in _content_of(logprobs)]
        current.said.append(text)
        current.logprobs += chances
        if text or chances:
            where = self._part_index(current)
            self._tell("output_text.delta", **current.place, **where, delta=text, logprobs=chances)

    def _refuse(self, text: str) -> None:
        current = self._message("refusal", {"type": "refusal", "refusal": ""})
        current.said.append(text)
        self._tell("refusal.delta", **current.place, **self._part_index(current), delta=text)

    def _message(self, kind: str, part: dict[str, Any]) -> _Open:
        """The open message, with an open part of this kind."""
        current = self._current
        if current is None or current.item["type"] != "message":
            current = self._begin(
                {
                    "id": self._id("msg"),
                    "type": "message",
                    "status": "in_progress",
                    "role": "assistant",
                    "content": [],
                }
            )
        if current.part is not None and current.part["type"] != kind:
            self._close_part(current)
        if current.part is None:
            self._begin_part(current, "content", part)
        return current

    def _begin(self, item: dict[str, Any]) -> _Open:
        self._close_current("completed")
        self._close_whole_calls()
        self._current = self._added(item)
        return self._current

    def _added(self, item: dict[str, Any]) -> _Open:
        one = _Open(len(self.items), item)
        self.items.append(item)
        self._tell("output_item.added", output_index=one.index, item=_copied(item))
        return one

    def _begin_part(self, one: _Open, where: str, part: dict[str, Any]) -> None:
        one.item.setdefault(where, []).append(part)
        one.part = part
        name = "reasoning_summary_part" if where == "summary" else "content_part"
        self._tell(f"{name}.added", **one.place, **self._part_index(one), part=dict(part))

    def _close_part(self, one: _Open) -> None:
        part = one.part
        if part is None:
            return
        where = {**one.place, **self._part_index(one)}
        _fill(one)
        one.part = None
        match part["type"]:
            case "output_text":
                self._tell("output_text.done", **where, text=part["text"], logprobs=part["logprobs"])
            case "refusal":
                self._tell("refusal.done", **where, refusal=part["refusal"])
            case "summary_text":
                self._tell("reasoning_summary_text.done", **where, text=part["text"])
            case _:
                self._tell("reasoning_text.done", **where, text=part["text"])
        name = "reasoning_summary_part" if part["type"] == "summary_text" else "content_part"
        self._tell(f"{name}.done", **where, part=dict(part))

    def _close_current(self, status: str) -> None:
        one, self._current = self._current, None
        if one is None:
            return
        self._close_part(one)
        if one.item["type"] == "reasoning" and (self._is_sealed or one.blocks):
            parts = [*one.item["summary"], *one.item.get("content", ())]
            one.item["encrypted_content"] = sealed("".join(part["text"] for part in parts), one.blocks)
        one.item["status"] = status
        self._tell("output_item.done", output_index=one.index, item=_copied(one.item))

    @staticmethod
    def _part_index(one: _Open) -> dict[str, int]:
        item = one.item
        if item["type"] == "reasoning" and item["summary"]:
            return {"summary_index": len(item["summary"]) - 1}
        return {"content_index": len(item["content"]) - 1}

    # --- calls --------------------------------------------------------------------------------------------------

    def _call(self, piece: CallPiece) -> None:
        one = self._calls.get(piece.index)
        if one is None:
            if piece.index in self._closed:  # blanks behind arguments that were whole
                return
            self._close_current("completed")
            self._close_whole_calls()
            one = self._calls[piece.index] = self._added(
                {
                    "id": self._id("fc"),
                    "type": "function_call",
                    "status": "in_progress",
                    "arguments": "",
                    "call_id": piece.id or f"call_{self._digits}{piece.index}",
                    "name": piece.name or "",
                }
            )
        if piece.arguments:
            one.said.append(piece.arguments)
            self._tell("function_call_arguments.delta", **one.place, delta=piece.arguments)

    def _close_whole_calls(self) -> None:
        for index, one in list(self._calls.items()):
            if _is_whole("".join(one.said)):
                self._close_call(index, "completed")

    def _close_call(self, index: int, status: str) -> None:
        one = self._calls.pop(index)
        self._closed.add(index)
        if not one.said and status == "completed":  # a call without arguments is one with an empty object
            one.said.append("{}")
            self._tell("function_call_arguments.delta", **one.place, delta="{}")
        _fill(one)
        one.item["status"] = status
        name, arguments = one.item["name"], one.item["arguments"]
        self._tell("function_call_arguments.done", **one.place, name=name, arguments=arguments)
        self._tell("output_item.done", output_index=one.index, item=_copied(one.item))

    # --- both ---------------------------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        """Whoever has it can find the response it stands in."""
        return f"{prefix}_{self._digits}{len(self.items):02x}"

    def _tell(self, kind: str, /, **fields: Any) -> None:
        self.told.append((f"response.{kind}", fields))


def _fill(one: _Open) -> None:
    """Put what was said into the item."""
    text = "".join(one.said)
    if one.item["type"] == "function_call":
        one.item["arguments"] = text
    elif one.part is not None:
        one.part["refusal" if one.part["type"] == "refusal" else "text"] = text
        if one.logprobs:
            one.part["logprobs"] = one.logprobs
        one.said, one.logprobs = [], []


def _copied(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now: events are written later, when the item may have grown."""
    return {name: [dict(part) for part in value] if isinstance(value, list) else value for name, value in item.items()}


def _is_whole(arguments: str) -> bool:
    """Arguments that have not begun may still come."""
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return False
    return True


def _content_of(logprobs: msgspec.Raw) -> list[dict[str, Any]]:
    return list(msgspec.json.decode(logprobs, type=dict[str, Any]).get("content") or ())


def _chance(one: dict[str, Any]) -> dict[str, Any]:
    """A token's log probability with every field this dialect wants."""
    tops = [_chance(top) for top in one.get("top_logprobs") or ()]
    told = {"token": one["token"], "logprob": one.get("logprob"), "bytes": one.get("bytes") or _bytes_of(one["token"])}
    return {**told, "top_logprobs": tops} if "top_logprobs" in one else told


def _bytes_of(token: str) -> list[int]:
    return list(token.encode(errors="replace"))
