"""What one vendor of OpenAI's dialect does differently, as data and pure functions; `openai.OpenAI` does the rest.

Owns what is sent to a server nobody knows: an order's own fields, less those that are ours to set. Knows no connection.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.frozen import Record
from steelyard.upstream.balance import BalanceAt
from steelyard.upstream.counting import CountAt
from steelyard.upstream.credential import Token
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import ANY
from steelyard.upstream.proofs import SIGN, without_proofs

WITHHELD = frozenset(
    {
        *("model", "n", "best_of", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("service_tier", "store", "models", "preset", "provider", "route", "plugins", "transforms"),
        *("anthropic_beta", "echo", "prompt_logprobs", "chat_template", "kv_transfer_params", "use_beam_search"),
        *("enable_search", "search_options", "search_parameters"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room", "lora_path", "priority", "request_id", "rid"),
    }
)
"""Ours to set, or not a customer's to choose: they change what is counted, what we pay, who answers, whose turn it is,
whom an engine connects to, or which of its requests it takes for this one. A beta of another dialect means nothing
here."""

_TEXTS = ("messages", "prompt", "tools")
_STREAM = {"stream": Raw(b"true"), "stream_options": Raw(b'{"include_usage":true}')}

FAILED = ""
"""An end by which the upstream says that it failed."""


class Ends(dict[str, str]):
    """An upstream's own word for its end → the canonical one. A word that is not here is canonical, but for a reason
    behind a colon (Gemini)."""

    def __missing__(self, word: str) -> str:
        head = word.partition(":")[0]
        return self.get(head, head)


_CANONICAL = ("stop", "length", "tool_calls", "content_filter")
ENDS = {
    **{word: word for word in _CANONICAL},
    "function_call": "tool_calls",
    "eos": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "sensitive": "content_filter",
    **dict.fromkeys(("abort", "error", "network_error", "insufficient_system_resource"), FAILED),
    "function_call_filter": FAILED,  # Gemini: the model called something that cannot be
}
"""Those of everybody."""


class Asked(Record, frozen=True):
    """One sequence that is to be answered. `params`: the order's canonical fields, all of them."""

    upstream: str
    model: str  # the upstream's name of it
    params: dict[str, Raw]
    max_tokens: int
    whole: bool = False  # in one piece

    def text_bytes(self) -> int:
        """How much text the model reads, for estimates of a prompt."""
        params, size = self.params, 0
        for name in _TEXTS:
            if name in params:
                size += len(params[name])
        return size

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        raw = self.params.get("stop")
        stops: str | list[str] = [] if raw is None else msgspec.json.decode(raw, type=str | list[str])
        return [stops] if isinstance(stops, str) else stops


def fields_of(asked: Asked) -> dict[str, Any]:
    """The body for a server nobody knows: what it was asked, under the names of the dialect."""
    params = asked.params
    if not WITHHELD.isdisjoint(params):
        params = {name: value for name, value in params.items() if name not in WITHHELD}
    fields: dict[str, Any] = {**params, "model": asked.model, "max_tokens": asked.max_tokens}
    messages = params.get("messages")
    if messages is not None and SIGN in bytes(messages):
        fields["messages"] = without_proofs(messages)
    if "prompt" in params and "logprobs" in params:  # a completion's `logprobs` is the number of alternatives
        fields["logprobs"] = fields.pop("top_logprobs", 1)
    return fields if asked.whole else fields | _STREAM


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's ways.

    - `fields`: an order → the body. Raises UpstreamError 400 that names a field which cannot be carried over.
    - `is_own`: whether `fields` is for a model of this name; others are asked as at a server nobody knows, or as their
      host wants it (`at_host`).
    - `faults`: its statuses and codes; `ends`: canonical words for its ends of an answer, those of everybody included.
    - `headers`: further lines of every request; `token`: what is sent instead of the key.
    - `base`: where its API lies when an address names no path.
    - `chat_path`, `completion_path`: below the address; no completion path: conversations only.
    - `may_repeat`: each piece of a text may be all of it so far.
    - `count`: where it counts a prompt without answering it.
    - `balance`: where it tells what is left of our money there.
    - `hides_thoughts`: its counts have reasoning in the total only.
    """

    fields: Callable[[Asked], dict[str, Any]] = fields_of
    is_own: Callable[[str], bool] | None = None
    at_host: Mapping[str, Callable[[Asked], dict[str, Any]]] = field(default_factory=dict)
    faults: FaultTable = ANY
    ends: Ends = field(default_factory=lambda: Ends(ENDS))
    headers: Mapping[str, str] = field(default_factory=dict)
    token: Token | None = None
    base: str = "/v1"
    chat_path: str = "/chat/completions"
    completion_path: str = "/completions"
    may_repeat: bool = False
    count: CountAt | None = None
    balance: BalanceAt | None = None
    hides_thoughts: bool = False


ANY_VENDOR = Vendor()
"""Any server of the dialect."""
