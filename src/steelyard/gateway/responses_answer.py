"""Answers of /v1/responses: one as a stream of events, one as a single body.

Owns this dialect's projection of usage, its statuses and what stands in front of and behind the items. Every event is
made here: no upstream's own is passed on. Pure text making: the bytes are sent elsewhere.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.gateway.chat_answer import DONE, Bill
from steelyard.gateway.responses_output import Output
from steelyard.gateway.responses_request import ResponsesOrder
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

_encode = msgspec.json.encode
STREAM_END = DONE
_FAILURE = "The model failed while it answered; what was delivered is charged."
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def usage_object(usage: Usage, bill: Bill | None = None, *, estimated: bool = False) -> dict[str, Any]:
    """`input_tokens` includes those read from a cache and written to one, `output_tokens` the reasoning; what this
    costs so far stands under `steelyard`."""
    shown: dict[str, Any] = {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.from_cache, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.generated,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }
    return shown if bill is None else {**shown, "steelyard": bill.shown(estimated=estimated)}


def response_id(request_id: bytes) -> str:
    return f"resp_{request_id.hex()}"


class _Response:
    """The response object at every moment of its making."""

    def __init__(self, asked: ResponsesOrder, created_ns: int) -> None:
        self.billed: Callable[[Usage], Bill] | None = None
        """Of what was delivered, if it comes to no end."""
        self._output = Output(asked.order.request_id, is_summarised=asked.is_summarised, is_sealed=asked.is_sealed)
        self.encoded = b""
        """The response as it was answered; empty before its end."""
        self._last = Event()
        self._head = {
            "id": response_id(asked.order.request_id),
            "object": "response",
            "created_at": created_ns // NS_PER_S,
        }
        self._echo = asked.echo

    def _begun(self) -> dict[str, Any]:
        """Nothing is said yet."""
        return self._object("in_progress", [], {})

    def _finish(self, usage: Usage, bill: Bill | None) -> str:
        """All is said. Returns the status."""
        reason = _REASONS.get(self._last.finish or "")
        details = {"incomplete_details": {"reason": reason}} if reason else {}
        status = "incomplete" if reason else "completed"
        self._output.finish(status)
        self._end(status, usage_object(usage, bill, estimated=self._last.estimated), details)
        return status

    def _fail(self, usage: Usage) -> None:
        """It came to no end; `usage` is what was delivered."""
        self._output.abandon()
        bill = None if self.billed is None else self.billed(usage)
        shown = usage_object(usage, bill, estimated=self._last.estimated)
        self._end("failed", shown, {"error": {"code": "server_error", "message": _FAILURE}})

    def _end(self, status: str, usage: dict[str, Any], more: dict[str, Any]) -> None:
        self.encoded = _encode(self._object(status, self._output.items, {**more, "usage": usage}))

    def _object(self, status: str, items: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._head,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "output": items,
            "usage": None,
            **self._echo,
            **more,
        }


class ResponseStream(_Response):
    """Server-sent events with numbers: created, in_progress, the items' own, completed or incomplete, [DONE]."""

    content_type = b"text/event-stream; charset=utf-8"
    shows_usage = True

    def __init__(self, asked: ResponsesOrder, created_ns: int) -> None:
        super().__init__(asked, created_ns)
        self._number = 0
        self._delivered = Usage()

    def render(self, sequence: int, event: Event) -> bytes:
        """The events of one event; the first one that says something opens the response."""
        self._last = event
        self._output.take(event)
        said = self._said()
        if said:
            self._delivered = event.usage
        return said

    def _said(self) -> bytes:
        told = self._output.taken()
        return self._greeting() + self._events(told) if told else b""

    def _greeting(self) -> bytes:
        if self._number:
            return b""
        begun = {"response": self._begun()}
        return self._events([("response.created", begun), ("response.in_progress", begun)])

    def _events(self, told: list[tuple[str, dict[str, Any]]]) -> bytes:
        pieces = []
        for kind, fields in told:
            data = _encode({"type": kind, "sequence_number": self._number, **fields})
            pieces.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
            self._number += 1
        return b"".join(pieces)

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        status = self._finish(usage, bill)
        said = self._said() or self._greeting()
        return said + self._events([(f"response.{status}", {"response": Raw(self.encoded)})]) + DONE

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """What the model said has left before, so all of it may wait."""
        return b"", closing

    def failing(self, error: UpstreamError) -> bytes:
        """The response as far as it came, and the error that client libraries raise."""
        told = {"code": "server_error", "message": _FAILURE, "param": None}
        error_fields = {**told, "error": {"type": "server_error", **told}}
        self._fail(self._delivered)
        failed = {"response": Raw(self.encoded)}
        return self._said() + self._events([("response.failed", failed), ("error", error_fields)])


class ResponseBody(_Response):
    """One JSON body, made when the sequence has ended."""

    content_type = b"application/json"
    shows_usage = True

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        self._last = event
        self._output.take(event)
        self._output.taken()
        return b""

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        self._finish(usage, bill)
        return self.encoded

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The answer leaves but for its last brace: until that comes no client takes it for whole."""
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error
