"""The general ledger: every account with its balance and meaning, and the entries behind it."""

from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.kernel.records import Record


class AccountRow(Record, frozen=True):
    """An account. `balance_nano` stands on the account's normal side."""

    id: int
    name: str  # "wallet:acme"
    kind: str
    sort: str  # "asset", "liability", "income", "expense"
    side: str  # "debit" or "credit": where it grows
    meaning: str
    currency: str
    debit_nano: int
    credit_nano: int
    balance_nano: int


class EntryRow(Record, frozen=True):
    """One entry: `amount_nano` from the credited to the debited account."""

    id: int
    batch_id: int
    posted_ns: int
    kind: str  # of the batch: "usage" or "topup"
    note: str
    fact: str
    debit: str
    credit: str
    currency: str
    amount_nano: int


class EntryPage(Record, frozen=True):
    """Entries, newest first. `older` is the `before` of the next page."""

    rows: tuple[EntryRow, ...]
    older: int | None


class TrialBalance(Record, frozen=True):
    """Sums of one currency over all accounts; equal on both sides in sound books (I1)."""

    currency: str
    debit_nano: int
    credit_nano: int


def accounts(connection: Connection) -> list[AccountRow]:
    """Every account in the order of the chart, then by name and currency."""
    raise NotImplementedError


def trial_balance(connection: Connection) -> list[TrialBalance]:
    """Debits and credits per currency."""
    raise NotImplementedError


def entries(
    connection: Connection,
    account: str | None = None,
    *,
    batch_id: int | None = None,
    before: int | None = None,
    limit: int = limits.PAGE_ROWS,
) -> EntryPage:
    """Entries of all accounts or of one (on either side); CallerError 404 when no account has that name."""
    raise NotImplementedError
