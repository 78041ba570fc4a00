"""Replays all journals into an empty database, through the very path that settles, and compares: I6, I8 and I12.

The books are read first, in one snapshot, the journals after them; so whatever the books have, the journals have, also
while the platform runs. Usage is replayed, other postings are copied as facts. Memory stays bounded by a batch: what is
staged and what is posted again lies in a scratch database that is thrown away.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, func, insert, select, update

from steelyard import flow
from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import End, Settlement
from steelyard.ledger.accounts import WALLET, BatchKind
from steelyard.ledger.chain import UsageRow
from steelyard.ledger.posting import read_watermarks
from steelyard.ledger.verify import Finding
from steelyard.metering.recovery import SLOTS_NAME
from steelyard.metering.slots import Slots, SlotState
from steelyard.processes.bookkeeper import BOOKS_SERIES, Settle
from steelyard.processes.staging import Stage, Staged
from steelyard.storage import tables
from steelyard.storage.database import bytewise, open_database

_Values = tuple[Any, ...]
Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

TITLES = {
    "I6": "Billed is at most what left user space and what was asked for; what may be missing is flagged",
    "I8": "Watermarks stand within what the journals have synced, and nothing above them is missing",
    "I12": "Replaying the journals into an empty database gives the same usage, roll-ups and balances",
}
"""The invariants that are checked here, in the words of docs/explain/ledger.md."""

_SHOWN_MAX = 5
_STREAMED = {"yield_per": 1000}
_PASSES = 3  # read, settle, compare


def replay(
    connection: Connection, journals: Path, settle: Settle = flow.settle, progress: Progress | None = None
) -> list[Finding]:
    """Check I6, I8 and I12 over all journals. What `connection` reads must be one snapshot: one transaction."""
    with tempfile.TemporaryDirectory(prefix="steelyard-replay-") as folder:
        engine = open_database(Path(folder) / "scratch.db")
        try:
            with engine.connect() as scratch:
                return _Replay(connection, scratch, journals, settle, progress).run()
        finally:
            engine.dispose()


class _Replay:
    """One run. The scratch connection keeps one transaction open to the end and never commits it."""

    def __init__(
        self, books: Connection, scratch: Connection, journals: Path, settle: Settle, progress: Progress | None
    ) -> None:
        self._books = books
        self._scratch = scratch
        self._journals = journals
        self._settle = settle
        self._progress = progress
        self._complaints: dict[str, list[str]] = {invariant: [] for invariant in TITLES}
        self._unseen = dict.fromkeys(TITLES, 0)
        self._done = 0
        self._marks = read_watermarks(books)
        self._total = _PASSES * books.execute(select(func.count()).select_from(tables.usage)).scalar_one()
        self._tariffs = tariffs_by_id(books)
        self._accounts = {row.id: dict(row._mapping) for row in books.execute(select(tables.accounts))}
        self._rules = {
            table: deque(dict(row._mapping) for row in books.execute(select(table).order_by(table.c.id)))
            for table in (tables.credit_limits, tables.periods)
        }
        self._slots: tuple[str, Slots | None] = ("", None)
        tables.metadata.create_all(scratch)
        self._stage = Stage(scratch, self._complain, self._tell)

    def run(self) -> list[Finding]:
        self._stage.fill(self._journals, self._marks)
        self._begin()
        query = select(tables.batches.c.id, tables.batches.c.posted_ns, tables.batches.c.kind)
        for batch in self._books.execute(query.order_by(tables.batches.c.id), execution_options=_STREAMED):
            self._copy_rules(batch.id)
            if batch.kind == BatchKind.USAGE:
                self._settle_again(batch.id, batch.posted_ns)
            else:
                self._copy_facts(batch.id)
        self._close_slots()
        for request_id, name in self._stage.left_out():
            self._complain("I12", f"{request_id.hex()} is before the watermark of {name} and not in the books")
        self._check_caps()
        self._compare("request", [tables.usage.c[name] for name in UsageRow._fields], 1)
        rollups = tables.rollups.c
        self._compare("roll-up", list(rollups), len(tables.rollups.primary_key))
        accounts = tables.accounts.c
        self._compare("account", [accounts.name, accounts.currency, accounts.debit_nano, accounts.credit_nano], 2)
        return self._findings()

    def _complain(self, invariant: str, what: str) -> None:
        if len(self._complaints[invariant]) < _SHOWN_MAX:
            self._complaints[invariant].append(what)
        else:
            self._unseen[invariant] += 1

    def _findings(self) -> list[Finding]:
        found = []
        for invariant, title in TITLES.items():
            detail = "; ".join(self._complaints[invariant])
            if self._unseen[invariant]:
                detail += f"; and {self._unseen[invariant]} more"
            found.append(Finding(invariant, title, not detail, detail))
        return found

    def _tell(self, steps: int) -> None:
        self._done = min(self._done + steps, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)

    # --- posting again ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Tenants and their empty wallets; every other account is opened by what is posted to it."""
        tenants = [dict(row._mapping) for row in self._books.execute(select(tables.tenants))]
        if tenants:
            self._scratch.execute(insert(tables.tenants), tenants)
        for account in self._accounts.values():
            if account["kind"] == WALLET.name:
                self._open_account(account)

    def _copy_rules(self, batch_id: int) -> None:
        """Credit limits and closed periods that were set before this batch: they decide how it is posted."""
        for table, rows in self._rules.items():
            while rows and rows[0]["after_batch_id"] < batch_id:
                self._scratch.execute(insert(table).values(rows.popleft()))

    def _settle_again(self, batch_id: int, posted_ns: int) -> None:
        """Settle the requests of one batch as they stand in the journals, after the batches before it."""
        column = tables.usage.c.request_id
        query = select(column).where(tables.usage.c.batch_id == batch_id).order_by(column)
        request_ids = list(self._books.execute(query).scalars())
        settlements: list[Settlement] = []
        for staged in self._stage.take(request_ids):
            self._check_recovered(staged)
            opened = staged.settlement.opened
            if self._tariffs.keys() >= set(opened.tariff_ids):
                settlements.append(staged.settlement)
            else:
                self._complain("I12", f"{opened.request_id.hex()} names a tariff that is not in the books")
        try:
            self._settle(self._scratch, settlements, self._tariffs, {}, ManualClock(posted_ns))
        except BooksError as error:
            self._complain("I12", f"batch {batch_id} cannot be settled again: {error}")
        self._tell(len(request_ids))

    def _copy_facts(self, batch_id: int) -> None:
        """Money that moved without a request has no journal: its header, entries and grants are taken as they are."""
        header = self._books.execute(select(tables.batches).where(tables.batches.c.id == batch_id)).one()
        self._scratch.execute(insert(tables.batches).values(dict(header._mapping)))
        for entry in self._books.execute(select(tables.entries).where(tables.entries.c.batch_id == batch_id)):
            for account_id, debit, credit in (
                (entry.debit_account_id, entry.amount_nano, 0),
                (entry.credit_account_id, 0, entry.amount_nano),
            ):
                account, columns = self._accounts[account_id], tables.accounts.c
                change = (
                    update(tables.accounts)
                    .where(columns.name == account["name"], columns.currency == account["currency"])
                    .values(debit_nano=columns.debit_nano + debit, credit_nano=columns.credit_nano + credit)
                )
                if not self._scratch.execute(change).rowcount:
                    self._open_account(account)
                    self._scratch.execute(change)

        for grant in self._books.execute(select(tables.grants).where(tables.grants.c.batch_id == batch_id)):
            name, columns = self._accounts[grant.account_id]["name"], tables.accounts.c
            account_id = self._scratch.execute(select(columns.id).where(columns.name == name)).scalar_one()
            row = dict(grant._mapping) | {"account_id": account_id, "allowance_id": None}
            self._scratch.execute(insert(tables.grants).values(row))

    def _open_account(self, account: dict[str, Any]) -> None:
        row = {name: value for name, value in account.items() if name != "id"}
        self._scratch.execute(insert(tables.accounts).values(row | {"debit_nano": 0, "credit_nano": 0}))

    # --- what left user space -----------------------------------------------------------------------------------

    def _check_recovered(self, staged: Staged) -> None:
        """A close that books wrote for a dead worker against the slot that worker left."""
        if not staged.closer.startswith(BOOKS_SERIES):
            return
        opened, closed = staged.settlement.opened, staged.settlement.closed
        slot = self._slot(staged.opener, opened.slot)
        if slot is not None and slot.request_id != opened.request_id:
            slot = None
        committed = Usage() if slot is None else slot.committed
        short = True if slot is None else slot.short_by_one_read
        name = opened.request_id.hex()
        for what in ("input", "cached_input", "cache_write", "output", "reasoning", "reused_input", "reused_output"):
            billed, left = getattr(closed.usage, what), getattr(committed, what)
            if billed > left:
                self._complain("I6", f"{name} is billed {billed} {what} tokens, {left} had left")
        if closed.estimated != (slot is not None and slot.estimated):
            self._complain("I6", f"{name} does not say whether its counts were told or estimated")
        if short and not closed.short_by_one_read:
            self._complain("I6", f"{name} may be one read short and is not flagged")

    def _slot(self, name: str, index: int) -> SlotState | None:
        if self._slots[0] != name:
            self._close_slots()
            try:
                self._slots = (name, Slots.open(self._journals / name / SLOTS_NAME))
            except BooksError:  # lost: then nothing is known to have left
                self._slots = (name, None)
        slots = self._slots[1]
        return slots.read_slot(index) if slots is not None and 0 <= index < slots.count else None

    def _close_slots(self) -> None:
        if self._slots[1] is not None:
            self._slots[1].close()
        self._slots = ("", None)

    # --- comparing ----------------------------------------------------------------------------------------------

    def _check_caps(self) -> None:
        """Nobody whose answer was interrupted got more than he asked for. Of an answer that was told whole its upstream
        may have said more at its end (it is cut before, where it can be), and then the counts are the upstream's.
        """
        columns = tables.usage.c
        most = columns.max_tokens * columns.sequences
        cut_short = columns.end.not_in([end.value for end in End if end.whole])
        output = columns.output + columns.reasoning
        above = output > most, columns.charge_nano <= columns.hold_nano, cut_short
        for row in self._books.execute(select(columns.request_id, output, most).where(*above)):
            self._complain("I6", f"{row[0].hex()} is billed {row[1]} output tokens of at most {row[2]}")

    def _compare(self, what: str, columns: Sequence[Column[Any]], key_length: int) -> None:
        """Rows of the books and of the scratch books, both in the order of their first columns."""
        key = columns[:key_length]
        query = select(*columns)
        for booked, replayed in _merged(
            self._books.execute(query.order_by(*bytewise(self._books, key)), execution_options=_STREAMED),
            self._scratch.execute(query.order_by(*key), execution_options=_STREAMED),
            key_length,
        ):
            if what == "request":
                self._tell(1)
            if booked == replayed:
                continue
            place = " ".join(
                part.hex() if isinstance(part, bytes) else str(part) for part in (booked or replayed)[:key_length]
            )
            if not booked or not replayed:
                self._complain("I12", f"the {what} {place} is in the {'books' if booked else 'journals'} only")
                continue
            pairs = zip(columns, booked, replayed, strict=True)
            names = [column.name for column, one, other in pairs if one != other]
            self._complain("I12", f"the {what} {place} differs from the journals in {', '.join(names)}")


def _merged(left: Iterable[Any], right: Iterable[Any], key_length: int) -> Iterator[tuple[_Values, _Values]]:
    """Pairs of two streams ordered by their first values; an empty tuple where one has no partner."""
    lefts, rights = map(tuple, left), map(tuple, right)
    one, other = next(lefts, ()), next(rights, ())
    while one or other:
        if not other or (one and one[:key_length] < other[:key_length]):
            yield one, ()
            one = next(lefts, ())
        elif not one or other[:key_length] < one[:key_length]:
            yield (), other
            other = next(rights, ())
        else:
            yield one, other
            one, other = next(lefts, ()), next(rights, ())
