"""What happened to requests, as records: the journal's frames, what they were rated at, what a customer can check.

Times are nanoseconds since 1970 UTC (`_ns`), amounts nano-units of `currency` (`_nano`). Those that come by the
thousand a second are `gc=False`: they hold no cycle, and the collector need not look at them.
"""

from enum import IntEnum, StrEnum

import msgspec

from steelyard.kernel.frozen import JournalRecord, Record
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.why import Tried

_NOTHING = Usage()


class End(StrEnum):
    """Why a request ended."""

    COMPLETE = "complete"  # the answer was delivered whole
    MONEY_ENDED = "money_ended"  # delivered up to the last token that the wallet covered
    CLIENT_GONE = "client_gone"  # the customer hung up; what had left is settled
    UPSTREAM_ERROR = "upstream_error"  # the upstream failed; what had left is settled
    REFUSED = "refused"  # the upstream refused the request; nothing was delivered
    DRAINED = "drained"  # the platform stopped while the answer ran
    WORKER_DIED = "worker_died"  # settled from the slot after a crash

    @property
    def whole(self) -> bool:
        """The answer came to its own end, and the customer was told so."""
        return self in WHOLE


WHOLE = (End.COMPLETE, End.MONEY_ENDED)


class Kind(IntEnum):
    """The tag of a journal frame."""

    OPENED = 1
    CLOSED = 2
    MOVED = 3


class Opened(JournalRecord, frozen=True, tag=int(Kind.OPENED)):
    """A request with a hold, written before the upstream is called."""

    request_id: bytes
    opened_ns: int
    slot: int
    tenant_id: int
    project_id: int
    key_id: int
    model: str
    upstream: str
    price_id: int
    cost_id: int
    currency: str
    hold_nano: int
    max_tokens: int
    sequences: int
    stream: bool
    lease: str = ""  # the journal series out of whose lease the hold came (ledger.leases); empty: a hold of its own
    rate_id: int = 0  # the rate that turns the vendor's currency into the customer's; 0: they are the same
    why: bytes = b""  # kernel.why.Why; empty: there was no choice
    tried: tuple[Tried, ...] = ()  # in vain, before the offer that is named here
    price_when: int = 0  # bit i: what variant i of the price depends on at the moment of opening held; see Tariff.met
    cost_when: int = 0
    thinking: int = 0  # a kernel.tariff.Thinking

    @property
    def tariff_ids(self) -> tuple[int, ...]:
        """The versions it is rated with."""
        return (self.price_id, self.cost_id, self.rate_id) if self.rate_id else (self.price_id, self.cost_id)


class Moved(JournalRecord, frozen=True, tag=int(Kind.MOVED)):
    """An open request is served elsewhere from here on, written before that upstream is called. Its hold stays."""

    request_id: bytes
    moved_ns: int
    model: str
    upstream: str
    price_id: int
    cost_id: int
    max_tokens: int
    rate_id: int = 0
    fault: str = ""  # why the one before was left; a kernel.faults.Fault
    price_when: int = 0
    cost_when: int = 0

    def moves(self, opened: Opened) -> Opened:
        """The open record as if it had been opened there."""
        return msgspec.structs.replace(
            opened,
            model=self.model,
            upstream=self.upstream,
            price_id=self.price_id,
            cost_id=self.cost_id,
            max_tokens=self.max_tokens,
            rate_id=self.rate_id,
            tried=(*opened.tried, Tried(opened.upstream, self.fault)),
            price_when=self.price_when,
            cost_when=self.cost_when,
        )


class Closed(JournalRecord, frozen=True, tag=int(Kind.CLOSED)):
    """The end of an opened request: what left user space, and why it ended."""

    request_id: bytes
    closed_ns: int
    usage: Usage
    end: str  # an End
    first_token_ns: int  # from open to the first delivered byte; 0 when nothing was delivered
    duration_ns: int
    short_by_one_read: bool = False  # at most one read may have left that is not in `usage` (found after a crash)
    estimated: bool = False  # the upstream gave no counts: those in `usage` are our own
    heard: Usage | None = None  # all tokens the upstream told of, where it is more than is settled; see `billed`
    measured_uj: int = 0  # so much of the energy in `usage` an instrument measured; the rest is modelled

    @property
    def billed(self) -> Usage:
        """What a vendor bills: all he said, also what did not reach the customer, and nothing he did not say."""
        if self.usage.is_reused:
            return _NOTHING
        return self.usage if self.heard is None else self.heard


Entry = Opened | Moved | Closed  # what a journal holds


class Position(Record, frozen=True, order=True):
    """A place in a journal series: the first byte not yet read or written."""

    segment: int = 0
    offset: int = 0


class Settlement(Record, frozen=True, gc=False):
    """One opened and closed request, ready to be rated and posted."""

    opened: Opened
    closed: Closed


class AmountLine(Record, frozen=True, gc=False):
    """One line of a receipt: `quantity` of `meter` at `text` per `per` makes `amount_nano`."""

    meter: Meter
    quantity: int
    text: str
    per: int
    amount_nano: int
    variant: str = ""  # the name of the tariff's variant whose price it is


class Rated(Record, frozen=True, gc=False):
    """A settlement with its money: each amount is the sum of rounded lines.

    What a vendor will bill is `payable_nano` in his own currency, and turned into the customer's `vendor_cost_nano`.
    """

    settlement: Settlement
    charge_nano: int
    cpu_cost_nano: int
    energy_cost_nano: int
    vendor_cost_nano: int = 0
    payable_nano: int = 0
    payable_currency: str = ""  # empty: an engine served it, there is no vendor to pay

    @property
    def cost_nano(self) -> int:
        return self.cpu_cost_nano + self.energy_cost_nano + self.vendor_cost_nano


class Receipt(Record, frozen=True):
    """What a customer can check. `state` is "open", "provisional" or "posted"."""

    request_id: str
    state: str
    model: str
    opened_at: str
    closed_at: str | None
    end: str | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tariff: int
    currency: str
    lines: tuple[AmountLine, ...]
    amount_nano: int
    amount: str
    hold_nano: int
    short_by_one_read: bool = False
    batch: int | None = None
    chain: str | None = None  # the hash of the posting batch, hexadecimal
    cache_write_tokens: int = 0  # of `prompt_tokens`, like the cached ones
    reasoning_tokens: int = 0  # of `output_tokens`
    reused_tokens: int = 0  # of both: the answer had been given before
    estimated: bool = False
