"""Checks a file of exported receipts from the file alone: no database, no key, nobody to trust.

Each receipt is made again from its row's bytes and its tariff; the row's digest must be among its batch's, the batch's
hash must follow from them, and each batch must follow the one before. `reports.export` writes these files.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Receipt
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import LATER, PUBLIC, SealedRow, content_digest, link, row_digest
from steelyard.rating.rate import charge_of
from steelyard.rating.varied import standing
from steelyard.reports.export import FORMAT, BatchLine, FileLine, Line, LinkLine, ReceiptLine, TariffLine

_decode = msgspec.json.Decoder(Line).decode
_decode_row = msgspec.msgpack.Decoder(list[Any]).decode
_decode_header = msgspec.msgpack.Decoder(tuple[int, int, str, str, int]).decode


class Checked(Record, frozen=True):
    """One receipt and what was found; `complaints` is empty when all of it can be recomputed."""

    request_id: str
    batch: int
    amount_nano: int
    currency: str
    complaints: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.complaints


class Verdict(Record, frozen=True):
    """All of a file. `last` and `head` are the chain's end in it: compare them with what others were shown."""

    receipts: tuple[Checked, ...]
    batches: int
    first: int
    last: int
    head: str
    complaints: tuple[str, ...]  # of the chain between batches

    @property
    def ok(self) -> bool:
        return bool(self.receipts) and not self.complaints and all(one.ok for one in self.receipts)


def check(lines: Iterable[bytes]) -> Verdict:
    """Recompute everything. Raises CallerError 400 when the lines are no such file."""
    checker = _Checker()
    for number, line in enumerate(lines, 1):
        try:
            checker.take(_decode(line), number)
        except (msgspec.MsgspecError, ValueError, UnicodeDecodeError) as error:
            raise _no_export(f"line {number} cannot be read ({error})") from None
    return checker.verdict()


class _Checker:
    """One pass over the file; keeps the batch at hand and the tariffs."""

    def __init__(self) -> None:
        self._tariffs: dict[int, Tariff] = {}
        self._batch: BatchLine | None = None
        self._batch_fault = ""
        self._receipts: list[Checked] = []
        self._seen: set[str] = set()
        self._complaints: list[str] = []
        self._batches = self._first = self._last = 0
        self._head = b""

    def take(self, line: Line, number: int) -> None:
        if (number == 1) != isinstance(line, FileLine):
            raise _no_export("its first line, and only that, must say that it holds receipts")
        match line:
            case FileLine():
                if (line.steelyard, line.format) != ("receipts", FORMAT):
                    raise _no_export(f"it is in format {line.format}, and this version reads {FORMAT}")
            case TariffLine():
                self._tariffs[line.tariff.id] = line.tariff
            case BatchLine():
                self._follow(line.id, line.previous, line.hash)
                self._batch, self._batch_fault = line, _fault_of(line)
            case LinkLine():
                previous = self._head
                self._follow(line.id, previous, line.hash)
                if line.content and link(previous, line.content) != line.hash:
                    self._complaints.append(f"batch {line.id} does not follow from the one before")
                if not line.content:
                    self._complaints.append(f"batch {line.id} is older than provable batches")
            case ReceiptLine():
                self._receipts.append(self._check(line))

    def _follow(self, batch_id: int, previous: bytes, digest: bytes) -> None:
        if self._batches and batch_id != self._last + 1:
            self._complaints.append(f"the batches between {self._last} and {batch_id} are missing")
        elif self._batches and previous != self._head:
            self._complaints.append(f"batch {batch_id} does not follow from the one before")
        self._first = self._first or batch_id
        self._batches += 1
        self._last, self._head = batch_id, digest

    def _check(self, line: ReceiptLine) -> Checked:
        told, batch = line.receipt, self._batch
        complaints: list[str] = []
        if told.request_id in self._seen:
            complaints.append("it is in the file twice")
        self._seen.add(told.request_id)
        if batch is None:
            complaints.append("no batch stands before it")
        else:
            if self._batch_fault:
                complaints.append(self._batch_fault)
            elif row_digest(SealedRow(line.row, line.private)) not in batch.rows:
                complaints.append("its row is not in the batch")
            complaints += self._differences(told, line.row, batch)
        return Checked(told.request_id, told.batch or 0, told.amount_nano, told.currency, tuple(complaints))

    def _differences(self, told: Receipt, row: bytes, batch: BatchLine) -> list[str]:
        """Where the receipt is not what its row, its tariff and its batch make."""
        try:
            shown = msgspec.convert(_named(_decode_row(row)), _Row)
            tariff = self._tariffs.get(shown.price_id)
            if tariff is None:
                return [f"its tariff version {shown.price_id} is not in the file"]
            made = _receipt_from(shown, tariff, batch)
        except (BooksError, msgspec.MsgspecError, ValueError, TypeError) as error:
            return [f"it cannot be made again: {error}"]
        found = [
            f"{name} is {getattr(told, name)!r}, its row says {getattr(made, name)!r}"
            for name in Receipt.__struct_fields__
            if name != "lines" and getattr(told, name) != getattr(made, name)
        ]
        if told.lines != made.lines:
            found.append("its lines are not what its tariff makes of its tokens")
        if sum(line.amount_nano for line in made.lines) != made.amount_nano:
            found.append("its tariff makes another amount of its tokens")
        if (tariff.subject, tariff.currency) != (made.model, made.currency):
            found.append("its tariff is of another model or currency")
        return found

    def verdict(self) -> Verdict:
        return Verdict(
            tuple(self._receipts), self._batches, self._first, self._last, self._head.hex(), tuple(self._complaints)
        )


def _receipt_from(row: "_Row", tariff: Tariff, batch: BatchLine) -> Receipt:
    usage = Usage(
        row.input,
        row.cached_input,
        row.output,
        cache_write=row.cache_write,
        reasoning=row.reasoning,
        reused_input=row.reused_input,
        reused_output=row.reused_output,
    )
    return Receipt(
        request_id=text_from_id(row.request_id),
        state="posted",
        model=row.model,
        opened_at=iso_from_ns(row.opened_ns),
        closed_at=iso_from_ns(row.closed_ns),
        end=row.end,
        prompt_tokens=usage.prompt,
        cached_tokens=row.cached_input,
        output_tokens=usage.generated,
        tariff=row.price_id,
        currency=row.currency,
        lines=charge_of(usage, standing(tariff, row.price_when)),
        amount_nano=row.charge_nano,
        amount=text_from_nano(row.charge_nano),
        hold_nano=row.hold_nano,
        short_by_one_read=row.short_by_one_read,
        batch=batch.id,
        chain=batch.hash.hex(),
        cache_write_tokens=row.cache_write,
        reasoning_tokens=row.reasoning,
        reused_tokens=row.reused_input + row.reused_output,
        estimated=row.estimated,
    )


class _Row(Record, frozen=True):
    """The columns of a row's bytes that a receipt tells."""

    request_id: bytes
    opened_ns: int
    closed_ns: int
    model: str
    price_id: int
    currency: str
    input: int
    cached_input: int
    output: int
    hold_nano: int
    charge_nano: int
    end: str
    short_by_one_read: bool
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False
    price_when: int = 0
    reused_input: int = 0
    reused_output: int = 0


def _named(values: list[Any]) -> dict[str, Any]:
    """Later columns stand in a row's bytes as far as they say something."""
    names = (*PUBLIC, *LATER[: max(0, len(values) - len(PUBLIC))])
    return dict(zip(names, values, strict=True))


def _fault_of(batch: BatchLine) -> str:
    """Why the batch's hash does not follow from what is shown of it; empty when it does."""
    if not batch.header:
        return "its batch is older than provable batches"
    try:
        batch_id, _, _, _, requests = _decode_header(batch.header)
    except msgspec.MsgspecError:
        return "its batch's header cannot be read"
    if (batch_id, requests) != (batch.id, len(batch.rows)):
        return "its batch's header tells of another batch"
    if link(batch.previous, content_digest(batch.header, batch.entries, batch.rows)) != batch.hash:
        return "its batch's hash does not follow from its rows"
    return ""


def _no_export(what: str) -> CallerError:
    return CallerError(400, "not_an_export", f"This is no file of exported receipts: {what}.")
