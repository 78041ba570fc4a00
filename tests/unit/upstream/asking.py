"""What a vendor would be sent for an order, without sending it."""

from typing import Any

import msgspec
from msgspec import Raw

from steelyard.upstream.vendor import Asked, Vendor

TURNS = [{"role": "user", "content": "hello"}]


def asked(model: str = "their-m", max_tokens: int = 1000, **fields: Any) -> Asked:
    """An order as its canonical fields."""
    given = {"messages": TURNS} | {name: value for name, value in fields.items() if value is not None}
    return Asked("vendor", model, {name: Raw(msgspec.json.encode(value)) for name, value in given.items()}, max_tokens)


def body(vendor: Vendor, model: str = "their-m", max_tokens: int = 1000, **fields: Any) -> dict[str, Any]:
    """The body as the vendor reads it."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(vendor.fields(asked(model, max_tokens, **fields))))
    return read
