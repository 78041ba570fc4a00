"""Posted requests: the latest ones page by page, and one in full with its receipt and its share of the ledger."""

from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.records import AmountLine, Receipt, Record, Tariff


class RequestRow(Record, frozen=True):
    """One usage row with the names behind its ids."""

    request_id: str  # "req_…"
    batch_id: int
    opened_ns: int
    closed_ns: int
    tenant_id: int
    tenant: str
    project: str
    key_id: int
    key: str  # its name
    key_shown: str  # "sk-sy-abc123…"
    model: str
    upstream: str
    stream: bool
    sequences: int
    max_tokens: int
    input: int
    cached_input: int
    output: int
    cpu_ns: int
    energy_uj: int
    currency: str
    hold_nano: int
    charge_nano: int
    cpu_cost_nano: int
    energy_cost_nano: int
    cost_nano: int  # CPU and energy
    overrun_nano: int  # the part of the charge above the hold, which we bear
    margin_nano: int  # charge − cost − overrun
    price_id: int
    cost_id: int
    end: str  # a kernel.records.End
    first_token_ns: int  # from open to the first delivered byte; 0 when nothing was delivered
    duration_ns: int
    short_by_one_read: bool

    @property
    def prompt(self) -> int:
        """Prompt tokens, cached ones included."""
        return self.input + self.cached_input


class RequestFilter(Record, frozen=True):
    """Which requests are wanted; None wants all. Names, not ids; an unknown name finds nothing."""

    tenant: str | None = None
    model: str | None = None
    end: str | None = None
    key_id: int | None = None
    batch_id: int | None = None


class RequestPage(Record, frozen=True):
    """Requests, newest first (by request id, which is by open time). `older` is the `before` of the next page."""

    rows: tuple[RequestRow, ...]
    older: str | None


class EntryShare(Record, frozen=True):
    """What one request put into one entry of its batch. Over all requests of the batch the shares make the entry."""

    entry_id: int
    batch_id: int
    fact: str  # "charge", "overrun", "cpu", "energy"
    debit: str  # account names
    credit: str
    currency: str
    share_nano: int
    entry_nano: int


class RequestDetail(Record, frozen=True):
    """One request in full. The lines are rated again from the tariff rows and add up to the row's amounts (I9)."""

    row: RequestRow
    receipt: Receipt  # what the customer sees; state "posted"
    charge: tuple[AmountLine, ...]
    cost: tuple[AmountLine, ...]
    price: Tariff
    cost_tariff: Tariff
    entries: tuple[EntryShare, ...]
    posted_ns: int
    chain: str  # the batch's hash, hexadecimal


def latest(
    connection: Connection,
    wanted: RequestFilter = RequestFilter(),
    *,
    before: str | None = None,
    limit: int = limits.PAGE_ROWS,
) -> RequestPage:
    """One page of posted requests. `before` is a page's `older`; CallerError 400 when it is no request id."""
    raise NotImplementedError


def detail(connection: Connection, request_id: bytes) -> RequestDetail | None:
    """The request, or None when it is unknown or not posted yet.

    Raises BooksError when rating it again gives another amount than the books keep.
    """
    raise NotImplementedError


def filter_choices(connection: Connection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tenants and of the models that a filter can offer, each sorted."""
    raise NotImplementedError
