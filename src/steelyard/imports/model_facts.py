"""What a price table of LiteLLM knows of models beside prices: how much they take and say, and what they are for.

Without a table the operator's own assumptions count. A name alone tells only that a model embeds, ranks or judges.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from steelyard.imports.amounts import MISSHAPEN, Rounding, Unfit, exactly
from steelyard.imports.litellm_prices import bare_name, priced
from steelyard.imports.price_text import PriceEntry, whole_prices, whole_whens
from steelyard.imports.vendor_names import PRICE_TABLE, Vendor

_MODES = {"embedding": "embedding", "rerank": "rerank", "moderation": "moderation"}
_BY_NAME = (
    ("embedding", re.compile(r"embed|(^|[/-])(bge|gte|e5|m3e)-(?!rerank)", re.IGNORECASE)),
    ("rerank", re.compile(r"rerank", re.IGNORECASE)),
    ("moderation", re.compile(r"moderation", re.IGNORECASE)),
)
_DEFAULT_ANSWER = 4096  # of an answer for which the customer names no bound, as `vendor add` has it


class Assumed(NamedTuple):
    """How many tokens a model takes and says of which nothing is known."""

    context_tokens: int
    answer_tokens: int


class Shipped(NamedTuple):
    """What our own book of a vendor says: sizes by model (LiteLLM's words), which models it prices, and in what."""

    sizes: Mapping[str, Mapping[str, int]]
    priced: frozenset[str]
    currency: str


class Facts:
    """`table`: LiteLLM's price table, or nothing. `shipped`: our own books by vendor."""

    def __init__(
        self, table: Mapping[str, Any], assumed: Assumed, read_on: str, shipped: Mapping[str, Shipped] | None = None
    ) -> None:
        self._assumed = assumed
        self._read_on = read_on
        self._shipped = shipped or {}
        self._rows: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._by_name: dict[str, Mapping[str, Any]] = {}
        for name, row in table.items():
            if isinstance(row, dict):
                provider = str(row.get("litellm_provider", ""))
                self._rows.setdefault((provider, bare_name(name, provider)), row)
                self._by_name.setdefault(bare_name(name, provider), row)

    def capability(self, model: str) -> str:
        """What the model can be asked for: a word of kernel.offers.Capability."""
        row = self._by_name.get(model)
        if row is not None:
            return _MODES.get(str(row.get("mode")), "text")
        return next((word for word, pattern in _BY_NAME if pattern.search(model)), "text")

    def shipped(self, vendor: Vendor) -> Shipped | None:
        """Our own book of the vendor."""
        return self._shipped.get(vendor.name)

    def sizes(self, vendor: Vendor, model: str, told: Mapping[str, Any]) -> tuple[dict[str, int], bool]:
        """Tokens of context and answer for a registration, from what is told (`max_input_tokens` …), the table or our
        book of the vendor; and whether they are only assumed."""
        book = self._shipped.get(vendor.name)
        row = {**(book.sizes.get(model, {}) if book else {}), **self._by_name.get(model, {})}
        row |= {key: value for key, value in told.items() if value is not None}
        context = _count(row.get("max_input_tokens")) or _count(row.get("max_tokens"))
        answer = _count(row.get("max_output_tokens")) or _count(row.get("max_tokens"))
        writes = self.capability(model) == "text"
        most = (answer or min(self._assumed.answer_tokens, context or self._assumed.context_tokens)) if writes else 0
        sizes = {
            "context_tokens": context or self._assumed.context_tokens,
            "max_output_tokens": most,
            "default_max_tokens": min(_DEFAULT_ANSWER, most),
        }
        return sizes, context is None or (writes and answer is None)

    def cost(
        self, vendor: Vendor, upstream: str, model: str, since: str, rounding: Rounding = exactly
    ) -> PriceEntry | None:
        """What the model costs at an upstream of that vendor by the table; None when it does not say.

        Raises Unfit for a price the books cannot keep.
        """
        row = self._rows.get((PRICE_TABLE.get(vendor.name, vendor.name), model))
        if row is None:
            return None
        try:
            base, whens = priced(row, "", rounding)
        except MISSHAPEN:
            raise Unfit("its shape is not that of LiteLLM's table") from None
        source = f"LiteLLM's price table, read {self._read_on}"
        return PriceEntry(upstream, model, "USD", since, whole_prices(base), source, whole_whens(base, whens))


def _count(value: object) -> int | None:
    try:
        number = int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return None
    return number if number > 0 else None
