"""The OpenAPI document of the public port: the endpoints that customers' programs use, from the records that read them.

Owns the table and the document at /v1/openapi.json. A body is as open as its reader: fields that are in none of the
records are passed on or named, not refused. Decides nothing.
"""

import functools
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from steelyard import __version__
from steelyard.gateway.batches import NewBatch
from steelyard.gateway.chat_request import ChatRequest
from steelyard.gateway.completion_request import CompletionRequest
from steelyard.gateway.embedding_dialect import EmbeddingRequest
from steelyard.gateway.messages_request import CountRequest, MessagesRequest
from steelyard.gateway.moderation_dialect import ModerationRequest
from steelyard.gateway.openapi import Error, operation_object
from steelyard.gateway.rerank_dialect import RerankRequest
from steelyard.gateway.responses_places import PATH as STORED_PATH
from steelyard.gateway.responses_request import ResponsesRequest
from steelyard.kernel import limits

DOCUMENT_PATH = "/v1/openapi.json"
JSON, EVENTS = "application/json", "text/event-stream"


class ByName(msgspec.Struct):
    name: str


class ByRequest(msgspec.Struct):
    request_id: str


class ByResponse(msgspec.Struct):
    response_id: str


class ItemsPage(msgspec.Struct):
    """Which items of an input, in which order."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=limits.INPUT_ITEMS_PAGE_MAX)] = 20
    order: Literal["asc", "desc"] = "desc"


class MessagesFault(msgspec.Struct):
    """What went wrong, in Anthropic's words."""

    type: str
    message: str
    code: str
    param: str | None


class MessagesError(msgspec.Struct):
    """The body of a refusal of the Messages API."""

    type: str
    error: MessagesFault
    request_id: str


@dataclass(frozen=True, slots=True)
class Place:
    """One endpoint. `answer` names the fields that an answer always has."""

    method: str
    path: str
    name: str
    summary: str
    answer: tuple[str, ...]
    body: type[msgspec.Struct] | None = None
    place: type[msgspec.Struct] | None = None
    streams: bool = False
    error: type[msgspec.Struct] = Error
    status: int = 200
    query: type[msgspec.Struct] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())


class ByFile(msgspec.Struct):
    file_id: str


class ByBatch(msgspec.Struct):
    batch_id: str


_FILE = ("id", "object", "bytes", "created_at", "filename", "purpose")
_BATCH = ("id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at", "request_counts")
_PAGE = ("object", "data", "has_more")
_CHAT = ("id", "object", "created", "model", "choices", "usage")
_MESSAGE = ("id", "type", "role", "model", "content", "stop_reason", "usage")
_RESPONSE = ("id", "object", "created_at", "model", "status", "output", "tools", "tool_choice", "parallel_tool_calls")
PLACES: tuple[Place, ...] = (
    Place("POST", "/v1/chat/completions", "chat", "Answer a chat", _CHAT, ChatRequest, streams=True),
    Place("POST", "/v1/completions", "complete", "Go on with texts", _CHAT, CompletionRequest, streams=True),
    Place(
        "POST", "/v1/responses", "respond", "Answer, as the Responses API", _RESPONSE, ResponsesRequest, streams=True
    ),
    Place("GET", STORED_PATH, "showResponse", "A stored response", _RESPONSE, place=ByResponse),
    Place("DELETE", STORED_PATH, "deleteResponse", "Delete it", ("id", "object", "deleted"), place=ByResponse),
    Place(
        *("GET", f"{STORED_PATH}/input_items", "listInputItems", "What it was made from", ("data", "has_more")),
        place=ByResponse,
        query=ItemsPage,
    ),
    Place(
        *("POST", "/v1/messages", "message", "Answer, as Anthropic's Messages API", _MESSAGE, MessagesRequest),
        streams=True,
        error=MessagesError,
    ),
    Place(
        *(
            "POST",
            "/v1/messages/count_tokens",
            "countTokens",
            "Count a prompt's tokens",
            ("input_tokens",),
            CountRequest,
        ),
        error=MessagesError,
    ),
    Place("POST", "/v1/embeddings", "embed", "Turn texts into vectors", ("object", "data", "usage"), EmbeddingRequest),
    Place("POST", "/v1/rerank", "rerank", "Order documents by a query", ("results", "usage"), RerankRequest),
    Place("POST", "/v1/moderations", "moderate", "Judge texts", ("id", "model", "results"), ModerationRequest),
    Place("GET", "/v1/models", "listModels", "What can be asked", ("data",)),
    Place("GET", "/v1/models/{name}", "showModel", "One model", ("id",), place=ByName),
    Place(
        *("GET", "/v1/receipts/{request_id}", "receipt", "What a request was charged", ("request_id", "state")),
        place=ByRequest,
    ),
    Place("GET", "/v1/files", "listFiles", "Your files", _PAGE),
    Place("GET", "/v1/files/{file_id}", "showFile", "One file", _FILE, place=ByFile),
    Place("DELETE", "/v1/files/{file_id}", "deleteFile", "Delete a file", ("id", "deleted"), place=ByFile),
    Place("POST", "/v1/batches", "addBatch", "Have a file of requests answered within a day", _BATCH, NewBatch),
    Place("GET", "/v1/batches", "listBatches", "Your batches", _PAGE),
    Place("GET", "/v1/batches/{batch_id}", "showBatch", "How far a batch is", _BATCH, place=ByBatch),
    Place("POST", "/v1/batches/{batch_id}/cancel", "cancelBatch", "End a batch", _BATCH, place=ByBatch),
)


def public_document() -> dict[str, Any]:
    """The whole document as plain values."""
    records = [Error, MessagesError, *(place.body for place in PLACES if place.body is not None)]
    _, components = msgspec.json.schema_components(records, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for place in PLACES:
        paths.setdefault(place.path, {})[place.method.lower()] = _described(place)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Steelyard", "version": __version__},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "a key, sk-sy-…"}},
        },
    }


def _described(place: Place) -> dict[str, Any]:
    described = operation_object(place)
    answers = described["responses"]
    whole = {"schema": {"type": "object", "required": list(place.answer)}}
    answers["200"]["content"] = {JSON: whole, EVENTS: {}} if place.streams else {JSON: whole}
    answers["default"]["content"][JSON]["schema"] = {"$ref": f"#/components/schemas/{place.error.__name__}"}
    return described


@functools.cache
def document_text() -> bytes:
    """The document as JSON, made once."""
    return msgspec.json.encode(public_document())
