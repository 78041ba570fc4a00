"""The chart of accounts, as data: each kind of account, its normal side and meaning, and each fact that is posted.

Knows no database. `docs/explain/ledger.md` carries these tables and is tested against them.
"""

from enum import StrEnum
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError


class Side(StrEnum):
    """The side on which an account of this kind grows."""

    DEBIT = "debit"
    CREDIT = "credit"


class AccountKind(NamedTuple):
    """One kind of account. `part` says what follows the colon of its name; empty when there is only one."""

    name: str
    part: str
    side: Side
    sort: str
    meaning: str


WALLET = AccountKind(
    "wallet",
    "tenant",
    Side.CREDIT,
    "liability",
    "Money of a tenant that he has not used up; below zero what he owes, at most his credit limit.",
)
GRANT = AccountKind(
    "grant", "tenant#number", Side.CREDIT, "liability", "Free credit given to a tenant, until it is used or expires."
)
CASH = AccountKind("cash", "", Side.DEBIT, "asset", "Money received for top-ups, less what was paid back.")
REVENUE = AccountKind("revenue", "model", Side.CREDIT, "income", "What customers were charged for a model.")
OVERRUN = AccountKind(
    "overrun", "tenant", Side.DEBIT, "expense", "The part of a charge above its hold: we bear it, not the wallet."
)
EXPENSE_CPU = AccountKind(
    "expense-cpu", "upstream", Side.DEBIT, "expense", "Engine CPU time used, at the cost book's rate per CPU-hour."
)
EXPENSE_ENERGY = AccountKind(
    "expense-energy",
    "upstream",
    Side.DEBIT,
    "expense",
    "Energy used (measured or modelled), at the cost book's price per kWh.",
)
CLEARING_AMORTISATION = AccountKind(
    "clearing-amortisation",
    "",
    Side.CREDIT,
    "liability",
    "Machine time charged to requests, to clear against purchases.",
)
CLEARING_ENERGY = AccountKind(
    "clearing-energy", "", Side.CREDIT, "liability", "Energy charged to requests, to clear against the power bill."
)
EXPENSE_VENDOR = AccountKind(
    "expense-vendor", "upstream", Side.DEBIT, "expense", "What vendors' answers cost us, at the cost book's prices."
)
PAYABLE = AccountKind(
    "payable", "upstream", Side.CREDIT, "liability", "What a vendor will bill us for his answers, in his currency."
)

PROMOTION = AccountKind("promotion", "", Side.DEBIT, "expense", "Free credit given, less what expired unused.")
ADJUSTMENT = AccountKind(
    "adjustment", "", Side.DEBIT, "expense", "Goodwill and corrections by hand; below zero they brought money in."
)
FX = AccountKind(
    "fx",
    "",
    Side.DEBIT,
    "clearing",
    "What conversions between currencies left in this one.",
)

CHART: tuple[AccountKind, ...] = (
    WALLET,
    GRANT,
    CASH,
    REVENUE,
    OVERRUN,
    PROMOTION,
    ADJUSTMENT,
    FX,
    EXPENSE_CPU,
    EXPENSE_ENERGY,
    EXPENSE_VENDOR,
    CLEARING_AMORTISATION,
    CLEARING_ENERGY,
    PAYABLE,
)
KINDS = {kind.name: kind for kind in CHART}


class Fact(StrEnum):
    """What an entry records."""

    TOPUP = "topup"
    REFUND = "refund"
    TRANSFER = "transfer"
    ADJUSTMENT = "adjustment"
    FX_OUT = "fx-out"
    FX_IN = "fx-in"
    GRANT = "grant"
    GRANT_SPENT = "grant-spent"
    GRANT_EXPIRED = "grant-expired"
    CHARGE = "charge"
    OVERRUN = "overrun"
    CPU = "cpu"
    ENERGY = "energy"
    VENDOR = "vendor"
    VENDOR_FX = "vendor-fx"
    PAYABLE_FX = "payable-fx"


PAIRS: dict[Fact, tuple[AccountKind, AccountKind]] = {
    Fact.TOPUP: (CASH, WALLET),
    Fact.REFUND: (WALLET, CASH),
    Fact.TRANSFER: (WALLET, WALLET),
    Fact.ADJUSTMENT: (ADJUSTMENT, WALLET),
    Fact.FX_OUT: (WALLET, FX),
    Fact.FX_IN: (FX, WALLET),
    Fact.GRANT: (PROMOTION, GRANT),
    Fact.GRANT_SPENT: (GRANT, REVENUE),
    Fact.GRANT_EXPIRED: (GRANT, PROMOTION),
    Fact.CHARGE: (WALLET, REVENUE),
    Fact.OVERRUN: (OVERRUN, REVENUE),
    Fact.CPU: (EXPENSE_CPU, CLEARING_AMORTISATION),
    Fact.ENERGY: (EXPENSE_ENERGY, CLEARING_ENERGY),
    Fact.VENDOR: (EXPENSE_VENDOR, PAYABLE),
    Fact.VENDOR_FX: (EXPENSE_VENDOR, FX),
    Fact.PAYABLE_FX: (FX, PAYABLE),
}
"""The accounts each fact debits and credits."""


class BatchKind(StrEnum):
    """Why a batch was posted."""

    USAGE = "usage"
    TOPUP = "topup"
    REFUND = "refund"
    TRANSFER = "transfer"
    ADJUSTMENT = "adjustment"
    GRANT = "grant"
    EXPIRY = "expiry"
    CREDIT = "credit"
    RERATE = "rerate"
    REVERSAL = "reversal"
    RECONCILE = "reconcile"


FACTS: dict[BatchKind, tuple[tuple[Fact, ...], tuple[Fact, ...]]] = {
    BatchKind.USAGE: (
        (
            Fact.CHARGE,
            Fact.GRANT_SPENT,
            Fact.OVERRUN,
            Fact.CPU,
            Fact.ENERGY,
            Fact.VENDOR,
            Fact.VENDOR_FX,
            Fact.PAYABLE_FX,
        ),
        (),
    ),
    BatchKind.TOPUP: ((Fact.TOPUP,), ()),
    BatchKind.REFUND: ((Fact.REFUND,), ()),
    BatchKind.TRANSFER: ((Fact.TRANSFER, Fact.FX_OUT, Fact.FX_IN), ()),
    BatchKind.ADJUSTMENT: ((Fact.ADJUSTMENT,), (Fact.ADJUSTMENT,)),
    BatchKind.GRANT: ((Fact.GRANT,), ()),
    BatchKind.EXPIRY: ((Fact.GRANT_EXPIRED,), ()),
    BatchKind.CREDIT: ((), (Fact.CHARGE,)),
    BatchKind.RERATE: ((Fact.CHARGE, Fact.OVERRUN), (Fact.CHARGE, Fact.OVERRUN)),
    BatchKind.RECONCILE: ((Fact.VENDOR,), (Fact.VENDOR,)),
    BatchKind.REVERSAL: (
        (Fact.ADJUSTMENT,),
        (Fact.TOPUP, Fact.REFUND, Fact.TRANSFER, Fact.ADJUSTMENT, Fact.FX_OUT, Fact.FX_IN, Fact.GRANT),
    ),
}
"""The facts that a batch of each kind may hold as they are, and those it may hold with debit and credit swapped."""


def account_name(kind: AccountKind, part: str = "") -> str:
    """`wallet:acme`, or `cash` for a kind that has only one account."""
    name = f"{kind.name}:{part}" if kind.part else kind.name
    if bool(kind.part) != bool(part) or len(name) > limits.ACCOUNT_NAME_CHARACTERS_MAX:
        raise BooksError(f"{name!r} is not a name in the chart of accounts")
    return name


def kind_of(name: str) -> AccountKind:
    """The kind of the account with that name. Raises BooksError when the chart has none."""
    kind = KINDS.get(name.partition(":")[0])
    if kind is None:
        raise BooksError(f"the chart of accounts has no {name!r}")
    return kind


def balance_nano(kind: AccountKind, debit_nano: int, credit_nano: int) -> int:
    """The balance on the account's normal side."""
    return credit_nano - debit_nano if kind.side is Side.CREDIT else debit_nano - credit_nano
