"""The frozen records that pass between the stages. No rules here, only shapes.

What happened to a request stands in kernel.settled.

Times are nanoseconds since 1970 UTC (`_ns`), amounts nano-units of `currency` (`_nano`), prices pico-units. Ids of
requests are sixteen bytes (see kernel.ids); ids of tenants, keys, models and tariffs are the books' integers.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.frozen import JournalRecord, Record
from steelyard.kernel.left import Left
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.reuse import Reuse
from steelyard.kernel.routes import Routes
from steelyard.kernel.tariff import Tariff

# --- who asks -----------------------------------------------------------------------------------------------------


class Caller(Record, frozen=True, gc=False):
    """Who a key stands for."""

    key_id: int
    project_id: int
    tenant_id: int
    tenant: str
    project: str
    currency: str


class Callers(Protocol):
    """Who the live keys stand for; `kernel.key_table` in a worker."""

    def get(self, digest: bytes, /) -> Caller | None:
        """By the SHA-256 of the key."""

    def of_key(self, key_id: int) -> Caller | None: ...
    def of_project(self, project_id: int) -> Caller | None:
        """The project with its oldest live key."""

    def payers(self, count_max: int) -> Sequence[Caller]:
        """The oldest projects that have a live key, each with its oldest one."""

    def __len__(self) -> int:
        """How many keys are live."""


class CallersKept(dict[bytes, Caller]):
    """A few callers in memory, where no books write a table of them."""

    def of_key(self, key_id: int) -> Caller | None:
        return next((one for one in self.values() if one.key_id == key_id), None)

    def of_project(self, project_id: int) -> Caller | None:
        of = [one for one in self.values() if one.project_id == project_id]
        return min(of, key=lambda one: one.key_id, default=None)

    def payers(self, count_max: int) -> Sequence[Caller]:
        ids = sorted({one.project_id for one in self.values()})[:count_max]
        return [one for one in map(self.of_project, ids) if one is not None]


# --- what is sold -------------------------------------------------------------------------------------------------


class Snapshot(Record, frozen=True):
    """All a worker needs to decide without I/O. Replaced as a whole when `version` moves, but for `callers`: those are
    the live keys at any time."""

    version: int
    callers: Callers
    operators: frozenset[bytes]  # SHA-256 of live operator keys
    models: dict[str, Model]
    prices: dict[str, tuple[Tariff, ...]]  # model → versions, latest effective_from first
    costs: dict[str, tuple[Tariff, ...]]  # upstream → versions of all its models, latest effective_from first
    operator_names: dict[bytes, str] = msgspec.field(default_factory=dict)  # SHA-256 of a live operator key → its name
    credentials: dict[str, str] = msgspec.field(default_factory=dict)  # upstream → its key, sealed (upstream.sealed)
    rates: dict[str, tuple[Tariff, ...]] = msgspec.field(default_factory=dict)  # currency → what it is worth in others
    routes: Routes = Routes()


# --- what bounds a customer ---------------------------------------------------------------------------------------


class Scope(StrEnum):
    """Whose requests a sub-limit counts."""

    TENANT = "tenant"
    PROJECT = "project"
    KEY = "key"


class LimitKind(StrEnum):
    """What a sub-limit bounds."""

    BUDGET = "budget"  # nano-units per calendar window
    RPM = "rpm"  # requests in any 60 seconds
    TPM = "tpm"  # tokens in any 60 seconds
    CONCURRENCY = "concurrency"  # requests at the same time


class Limit(Record, frozen=True):
    """A sub-limit in force; `amount` None: lifted. A subject has one of each kind, and one budget of each length."""

    scope: Scope
    subject_id: int
    tenant_id: int
    name: str  # the subject's, for people
    kind: LimitKind
    amount: int | None
    currency: str = ""  # budgets only, like what follows
    every: str = ""
    zone: str = "UTC"
    week_start: int = 0  # Monday = 0


class Use(JournalRecord, frozen=True):
    """What a request takes of sub-limits beside money. `tokens`: reserved while it runs, counted when it has ended."""

    project_id: int
    key_id: int
    opened_ns: int
    tokens: int


class HoldAsk(JournalRecord, frozen=True):
    """What is to be set aside for a request: money between `floor` and `want`, and its use of sub-limits."""

    request_id: bytes
    tenant_id: int
    want_nano: int
    floor_nano: int  # covers one output token per sequence
    project_id: int = 0
    key_id: int = 0
    opened_ns: int = 0
    prompt_tokens: int = 0  # the bound, over all sequences
    max_tokens: int = 1  # per sequence; what `want` covers
    sequences: int = 1


class Granted(JournalRecord, frozen=True):
    """What was set aside; nothing when `amount_nano` is below the floor. `max_tokens` may be lower than asked."""

    amount_nano: int
    max_tokens: int = 1
    lease: str = ""  # the series out of whose lease it came; empty: the teller's own hold
    busy: bool = False  # nothing was, but what others hold at the moment would have covered it
    left: Left | None = None  # by the books' word; out of a lease only limits per minute, less what was given since


# --- what is asked ------------------------------------------------------------------------------------------------


class Order(Record, frozen=True, gc=False):
    """One request, stripped of its dialect.

    `params` is the canonical form: the fields of an OpenAI chat request, a superset of every dialect. Dialects
    translate into it, upstream adapters out of it; what cannot be carried over is refused by name, never dropped.

    - `messages`: turns of the roles system, user, assistant and tool. `content` is a text, null, or a list of parts
      (`{"type": "text", "text": …}`, `image_url`, `input_audio`, `file`); a part keeps its `cache_control`. An
      assistant's turn may have `tool_calls`, `reasoning_content` and `thinking_blocks` (Anthropic's own form, with what
      proves them to the upstream that made them), a call its `extra_content` (Google's form of the same); a tool's turn
      has `tool_call_id`.
    - A completion has a `prompt` instead of `messages`: a text or a list of token ids, to be gone on from.
    - `tools` (functions only), `tool_choice` ("none", "auto", "required" or `{"type": "function", …}`),
      `parallel_tool_calls`, `response_format`, samplers, and fields we do not know, for upstreams that do.
    - What only reads says so in `capability`. An embedding has an `input`, a list of texts or of lists of token ids,
      and perhaps `dimensions`; a rerank a `query` and `documents`, a text and a list of texts; a moderation an
      `input`, a list of texts or of parts. Each is one sequence of `parts` inputs or documents and no output tokens.
    """

    request_id: bytes
    model: str
    params: dict[str, msgspec.Raw]  # what the upstream is asked, field by field; null fields are absent
    prompt_tokens_max: int  # no prompt of this text can have more tokens
    max_tokens: int | None  # output tokens per sequence the customer asked for
    sequences: int  # `n`
    stream: bool
    prompts: tuple[msgspec.Raw, ...] = ()  # a completion's, one per sequence: a text or a list of token ids
    capability: Capability = Capability.TEXT
    parts: int = 1  # inputs or documents, each of which has the model's context for itself
    tier: str = ""  # which of the model's prices count (catalog.tariffs); fixed with the tariff
    fallbacks: tuple[str, ...] = ()  # models that may answer in the place of this one, best first
    session: bytes = b""  # the customer's word for what belongs together; empty: none
    deadline_ns: int = 0  # of a batch's line: when it must have ended; 0: somebody waits for the answer
    reuse: str = ""  # his word about answers that were given before, see upstream.answer_cache; empty: none


class Terms(Record, frozen=True, gc=False):
    """The money set aside for an order, before an offer is chosen."""

    model: Model
    price: Tariff
    granted: Granted
    max_tokens: int
    lowered: bool
    priced_ns: int  # the moment whose prices count


class Quote(Record, frozen=True, gc=False):
    """What the conductor found out before it called: the money set aside and the terms."""

    caller: Caller
    offer: Offer
    price: Tariff
    cost: Tariff
    hold_nano: int
    max_tokens: int  # output tokens per sequence that are forwarded; 0 for what only reads
    lowered: bool  # True when the wallet, not the customer or the model, set max_tokens
    priced_ns: int  # the moment whose prices count; the request is opened at it
    lease: str = ""
    left: Left | None = None
    rate_id: int = 0  # what the vendor's currency is worth in the customer's; 0: they are the same
    reuse: Reuse | None = None  # None: the answer cache is not asked

    @property
    def model(self) -> str:
        """Who answers, by the name it is sold under."""
        return self.offer.model

    @property
    def answers_whole(self) -> bool:
        """Whether an answer may be asked for in one piece here: nothing is owed of one that breaks off, and the
        operator has not said how soon the offer must begin to speak."""
        offer = self.offer
        return offer.answers_whole and not offer.first_token_s and not self.cost.owes_tokens

    def is_waited_for(self, order: Order) -> bool:
        """Whether the customer waits for all of the answer, and for no longer than he may be kept waiting."""
        return not order.stream and self.max_tokens <= limits.WHOLE_TOKENS_MAX and order.capability is Capability.TEXT

    def is_whole(self, order: Order) -> bool:
        """Whether the answer is asked for in one piece."""
        return self.is_waited_for(order) and self.answers_whole


class CallPiece(Record, frozen=True, gc=False):
    """A piece of a tool call. `id` and `name` stand in the first piece of an `index` only."""

    index: int  # which call of the sequence, counted from 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""  # the next piece of a JSON text
    signature: str = ""  # what its upstream wants to see when it gets the call back


class Event(Record, frozen=True, gc=False):
    """What one sequence of an upstream said in one read. Counts are cumulative for the sequence."""

    text: str = ""
    usage: Usage = Usage()  # CPU and energy are not filled in here
    finish: str | None = None  # "stop", "length", "tool_calls", "content_filter"; set once
    logprobs: msgspec.Raw | None = None  # an OpenAI chat choice's `logprobs`, untouched
    reasoning: str = ""
    tool_calls: tuple[CallPiece, ...] = ()
    refusal: str = ""
    estimated: bool = False  # the upstream gave no counts: `usage` is our own estimate
    stop_text: str | None = None  # which of the customer's stop texts ended it, where the upstream says so
    cut: bool = False  # we ended the sequence, because the upstream went beyond its cap
    signature: str = ""  # ends a block of reasoning: what its upstream wants to see when it gets the block back
    redacted: str = ""  # a whole block of reasoning that only its upstream can read
    ended_by: str | None = None  # the upstream's own word for its end, where `finish` says less
    found: tuple[msgspec.Raw, ...] = ()  # of what only reads, one JSON value per part: a vector, a score, a judgement
