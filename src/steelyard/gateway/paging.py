"""Pages as the OpenAI API asks for them (`after`, `limit`, `order`) and shows them."""

from collections.abc import Callable, Mapping
from typing import Any

from steelyard.jobs.records import Page
from steelyard.kernel.errors import bad_request


def page_of(asked: Mapping[str, str], id_of: Callable[[str], bytes | None], limit: int, limit_max: int) -> Page:
    """Raises CallerError 400 that names the parameter at fault."""
    after = asked.get("after")
    after_id = None
    if after is not None and (after_id := id_of(after)) is None:
        raise bad_request("'after' is not an id of this list.", "after")
    if (text := asked.get("limit")) is not None:
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= limit_max):
            raise bad_request(f"'limit' must be 1 to {limit_max}.", "limit")
        limit = int(text)
    order = asked.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise bad_request("'order' must be asc or desc.", "order")
    return Page(after_id, limit, order == "desc")


def listed(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of objects that have an `id`."""
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": ends[0], "last_id": ends[1], "has_more": has_more}
