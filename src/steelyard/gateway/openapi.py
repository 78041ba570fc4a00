"""The OpenAPI 3.1 document of the admin API, made from its table of operations.

Owns no operation: whatever the table holds is in the document, and nothing else.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from steelyard import __version__

_REFERENCE = "#/components/schemas/{name}"


class Described(Protocol):
    """What the document needs to know of an operation."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def place(self) -> type[msgspec.Struct] | None: ...
    @property
    def query(self) -> type[msgspec.Struct] | None: ...
    @property
    def body(self) -> type[msgspec.Struct] | None: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...


class ErrorDetail(msgspec.Struct):
    """What went wrong; `code` is a stable word for programs."""

    message: str
    type: str
    code: str
    param: str | None


class Error(msgspec.Struct):
    """The body of every answer with a status of 400 or more."""

    error: ErrorDetail


def document(operations: Sequence[Described]) -> dict[str, Any]:
    """The whole document as plain values."""
    bodies = [operation.body for operation in operations if operation.body is not None]
    (_, *_), components = msgspec.json.schema_components([Error, *bodies], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation_object(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Steelyard admin API",
            "version": __version__,
            "description": "Amounts are integers of 1e-9 currency units (`…_nano`) with their decimal text beside "
            "them; times are RFC 3339 texts in UTC.",
        },
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "operator": {"type": "http", "scheme": "bearer", "description": "an operator key, sk-sy-op-…"}
            },
        },
    }


def operation_object(operation: Described) -> dict[str, Any]:
    """One operation with its parameters, its body and its answers."""
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            *_parameters(operation.place, "path"),
            *_parameters(operation.query, "query"),
            *(
                {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
                for name, text in operation.headers
            ),
        ],
        "responses": {
            str(operation.status): {
                "description": "as asked",
                "content": {"application/json": {"schema": {}}},
            },
            "default": {
                "description": "refused, or failed",
                "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}},
            },
        },
    }
    if operation.body is not None:
        reference = {"$ref": _REFERENCE.format(name=operation.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return described


def _parameters(struct: type[msgspec.Struct] | None, where: str) -> list[dict[str, Any]]:
    if struct is None:
        return []
    _, components = msgspec.json.schema_components([struct])
    schema = components[struct.__name__]
    required = set(schema.get("required", ()))
    found = []
    for name, field in schema["properties"].items():
        described = {key: value for key, value in field.items() if key != "description"}
        parameter = {"name": name, "in": where, "required": name in required, "schema": described}
        if "description" in field:
            parameter["description"] = field["description"]
        found.append(parameter)
    return found
