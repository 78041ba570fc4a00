"""Money that moves without a request: top-up, refund, transfer, conversion, adjustment, credit, and their reversal.

Each is planned as a `Move` (entries, and what must be there for them) and then posted, so that whoever holds the live
purses can set the money aside in between. Works in the caller's transaction.
"""

from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.money import INT64_MAX, divide_half_even, money_from_nano
from steelyard.ledger.accounts import ADJUSTMENT, CASH, FX, GRANT, REVENUE, WALLET, BatchKind, Fact, account_name
from steelyard.ledger.operations import Why
from steelyard.ledger.posting import Pair, wallets, write_batch
from steelyard.ledger.purses import limits_since
from steelyard.storage import tables

REVERSIBLE = (BatchKind.TOPUP, BatchKind.GRANT, BatchKind.ADJUSTMENT, BatchKind.TRANSFER, BatchKind.REFUND)


class Source(StrEnum):
    """What an amount is taken from."""

    WALLET = "wallet"  # money that was paid in
    CREDIT = "credit"  # the wallet, down to its credit limit
    GRANT = "grant"


class Need(NamedTuple):
    """An amount that must be there, and not held, for a move."""

    tenant_id: int
    source: Source
    account: str
    currency: str
    amount_nano: int


class Conversion(NamedTuple):
    """The rate of a transfer between currencies: to = from × rate, rounded once, half-even."""

    from_currency: str
    to_currency: str
    from_nano: int
    to_nano: int
    rate: Fraction
    source: str


class Move(NamedTuple):
    """Entries that are not posted yet; `tenants` are those whose purses they change."""

    kind: BatchKind
    pairs: Mapping[Pair, int]
    tenants: tuple[int, ...]
    needs: tuple[Need, ...] = ()
    conversion: Conversion | None = None


def topup(connection: Connection, tenant_id: int, amount_nano: int) -> Move:
    wallet = wallets(connection, {tenant_id})[tenant_id]
    pair = Pair(Fact.TOPUP, account_name(CASH), wallet.name, wallet.currency)
    return Move(BatchKind.TOPUP, {pair: amount_nano}, (tenant_id,))


def refund(connection: Connection, tenant_id: int, amount_nano: int) -> Move:
    """Pay money of the wallet back; grants and credit are never paid out."""
    wallet = wallets(connection, {tenant_id})[tenant_id]
    pair = Pair(Fact.REFUND, wallet.name, account_name(CASH), wallet.currency)
    need = Need(tenant_id, Source.WALLET, wallet.name, wallet.currency, amount_nano)
    return Move(BatchKind.REFUND, {pair: amount_nano}, (tenant_id,), (need,))


def adjustment(connection: Connection, tenant_id: int, amount_nano: int) -> Move:
    """Add to a wallet or, below zero, take from it."""
    wallet = wallets(connection, {tenant_id})[tenant_id]
    pair = Pair(Fact.ADJUSTMENT, account_name(ADJUSTMENT), wallet.name, wallet.currency)
    if amount_nano > 0:
        return Move(BatchKind.ADJUSTMENT, {pair: amount_nano}, (tenant_id,))
    need = Need(tenant_id, Source.CREDIT, wallet.name, wallet.currency, -amount_nano)
    return Move(BatchKind.ADJUSTMENT, {_swapped(pair): -amount_nano}, (tenant_id,), (need,))


def transfer(
    connection: Connection, tenants: tuple[int, int], amount_nano: int, rate: tuple[Fraction, str] | None
) -> Move:
    """Move money from one wallet to another, at `rate` (and its source) when they have different currencies."""
    giver, taker = tenants
    if giver == taker:
        raise bad_request("A transfer is between two tenants.", "to")
    found = wallets(connection, set(tenants))
    given, taken = found[giver], found[taker]
    need = Need(giver, Source.WALLET, given.name, given.currency, amount_nano)
    if given.currency == taken.currency:
        if rate is not None:
            raise bad_request(f"Both wallets are in {given.currency}: there is no rate.", "rate")
        pair = Pair(Fact.TRANSFER, given.name, taken.name, given.currency)
        return Move(BatchKind.TRANSFER, {pair: amount_nano}, tenants, (need,))
    if rate is None:
        message = f"{given.currency} becomes {taken.currency}: name the 'rate', what 1 {given.currency} is worth."
        raise bad_request(message, "rate")
    ratio, source = rate
    to_nano = divide_half_even(amount_nano * ratio.numerator, ratio.denominator)
    if not 0 < to_nano <= INT64_MAX // 1000:
        raise bad_request("At this rate nothing, or more than the books can keep, would arrive.", "rate")
    pairs = {
        Pair(Fact.FX_OUT, given.name, account_name(FX), given.currency): amount_nano,
        Pair(Fact.FX_IN, account_name(FX), taken.name, taken.currency): to_nano,
    }
    conversion = Conversion(given.currency, taken.currency, amount_nano, to_nano, ratio, source)
    return Move(BatchKind.TRANSFER, pairs, tenants, (need,), conversion)


def payer(connection: Connection, request_id: bytes) -> int:
    """The tenant who was charged for a request. CallerError 404 when it is not posted."""
    usage = tables.usage.c
    tenant_id = connection.execute(select(usage.tenant_id).where(usage.request_id == request_id)).scalar()
    if tenant_id is None:
        raise CallerError(404, "receipt_not_found", "There is no posted request with this id.", param="request_id")
    return int(tenant_id)


def credit(connection: Connection, request_id: bytes, amount_nano: int | None) -> Move:
    """Give back what a request was charged, or a part; in all credits of a request never more than that.

    Not after its period was rated again: what that gave back is known per tenant and model only.
    """
    usage, done = tables.usage.c, tables.operations.c
    payer(connection, request_id)
    row = connection.execute(select(tables.usage).where(usage.request_id == request_id)).one()
    _refuse_rated_again(connection, row.closed_ns)
    credited = connection.execute(select(func.sum(done.amount_nano)).where(done.request_id == request_id)).scalar()
    left = min(row.charge_nano, row.hold_nano) - int(credited or 0)
    amount = left if amount_nano is None else amount_nano
    if not 0 < amount <= left:
        most = money_from_nano(left, row.currency)
        raise CallerError(409, "above_charge", f"Of this request's charge {most} may be given back.", param="amount")
    wallet = wallets(connection, {row.tenant_id})[row.tenant_id]
    pair = Pair(Fact.CHARGE, account_name(REVENUE, row.model), wallet.name, wallet.currency)
    return Move(BatchKind.CREDIT, {pair: amount}, (row.tenant_id,))


def _refuse_rated_again(connection: Connection, closed_ns: int) -> None:
    corrections = tables.corrections.c
    within = (corrections.since_ns <= closed_ns, corrections.until_ns > closed_ns, corrections.batch_id.is_not(None))
    found = connection.execute(select(corrections.id).where(*within)).first()
    if found is not None:
        raise CallerError(
            409,
            "rated_again",
            f"Correction {found.id} has rated this request's period again. Give money back with "
            "'steelyard wallet adjust'.",
            param="request_id",
        )


def reversal(connection: Connection, batch_id: int) -> Move:
    """All entries of a batch with debit and credit swapped."""
    batches, columns = tables.batches.c, tables.entries.c
    kind = connection.execute(select(batches.kind).where(batches.id == batch_id)).scalar()
    if kind is None:
        raise CallerError(404, "not_found", f"There is no batch {batch_id}.", param="batch")
    if kind not in REVERSIBLE:
        raise CallerError(
            409,
            "not_reversible",
            f"Batch {batch_id} is of kind {kind}. Reverse a top-up, grant, adjustment, transfer or refund; "
            "correct charges with 'steelyard wallet credit-back' or 'steelyard rerate'.",
            param="batch",
        )
    accounts = {row.id: row for row in connection.execute(select(tables.accounts))}
    pairs: dict[Pair, int] = {}
    needs: list[Need] = []
    tenants: dict[int, None] = {}
    for row in connection.execute(select(tables.entries).where(columns.batch_id == batch_id).order_by(columns.id)):
        debit, credit_ = accounts[row.credit_account_id], accounts[row.debit_account_id]
        pairs[Pair(Fact(row.fact), debit.name, credit_.name, row.currency)] = row.amount_nano
        tenants |= {one.tenant_id: None for one in (debit, credit_) if one.tenant_id is not None}
        if debit.kind in (WALLET.name, GRANT.name):
            adjusts = Source.CREDIT if kind == BatchKind.ADJUSTMENT else Source.WALLET
            source = Source.GRANT if debit.kind == GRANT.name else adjusts
            needs.append(Need(debit.tenant_id, source, debit.name, row.currency, row.amount_nano))
    return Move(BatchKind.REVERSAL, pairs, tuple(tenants), tuple(needs))


def post_move(connection: Connection, move: Move, why: Why, clock: Clock) -> int:
    """Post it. CallerError 409 when an account does not have what it needs. Returns the batch."""
    for need in move.needs:
        refuse_short(need, _room(connection, need))
    batch_id = write_batch(connection, move.kind, why.note, move.pairs, clock)
    if move.conversion is not None:
        values = move.conversion._asdict() | {"batch_id": batch_id, "at_ns": clock.now_ns()}
        rate: Fraction = values.pop("rate")
        ratio = {"rate_numerator": rate.numerator, "rate_denominator": rate.denominator}
        connection.execute(insert(tables.conversions).values(values | ratio))
    return batch_id


def refuse_short(need: Need, room_nano: int) -> None:
    """CallerError 409 when there is less than what is needed."""
    if room_nano < need.amount_nano:
        asked, there = money_from_nano(need.amount_nano, need.currency), money_from_nano(room_nano, need.currency)
        raise CallerError(
            409,
            "wallet_short",
            f"{need.account} has {there} that is free to be taken, {asked} is asked.",
            param="amount",
        )


def _room(connection: Connection, need: Need) -> int:
    columns = tables.accounts.c
    query = select(columns.credit_nano - columns.debit_nano).where(
        columns.name == need.account, columns.currency == need.currency
    )
    balance = int(connection.execute(query).scalar_one())
    if need.source is Source.CREDIT:
        balance += limits_since(connection, {need.tenant_id: None}).get(need.tenant_id, 0)
    return max(0, balance)


def _swapped(pair: Pair) -> Pair:
    return pair._replace(debit=pair.credit, credit=pair.debit)
