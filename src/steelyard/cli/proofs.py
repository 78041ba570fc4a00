"""`steelyard receipt export` and `receipt check`: receipts as a file that anyone can recompute."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.options import at_desk, json_option, since_option, until_option
from steelyard.cli.reports import receipt
from steelyard.cli.show import Column, Show, money, words
from steelyard.gateway.figures import period_ns
from steelyard.identity.store import find_tenant
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, StartError, bad_request
from steelyard.kernel.ids import id_from_text
from steelyard.reports.check import check
from steelyard.reports.export import Wanted, export

__all__ = ["receipt"]


@receipt.command(
    "export",
    epilog=examples(
        "steelyard receipt export req_0199… > receipt.jsonl",
        "steelyard receipt export --tenant acme --since 30d > receipts.jsonl",
    ),
)
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--tenant", help="Only this tenant's receipts.")
@since_option
@until_option
@at_desk
def receipt_export(
    desk: Desk, show: Show, request_id: str | None, tenant: str | None, since: str | None, until: str | None
) -> None:
    """Write posted receipts with all that is needed to recompute them, as lines of JSON."""
    if request_id is None and since is None and until is None and tenant is None:
        raise bad_request("Name a receipt, or which ones with --since, --until or --tenant.", "request_id")
    start, end = period_ns(since, until, desk.clock.now_ns())
    with desk.read() as connection:
        tenant_id = None if tenant is None else find_tenant(connection, tenant).id
        wrote = False
        for line in export(connection, Wanted(_id(request_id), tenant_id, start, end)):
            sys.stdout.buffer.write(line)
            wrote = True
    sys.stdout.buffer.flush()
    if not wrote:
        raise CallerError(404, "receipt_not_found", "There is no such posted receipt.")


@receipt.command("check", epilog=examples("steelyard receipt check receipts.jsonl && echo correct"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def receipt_check(file: Path, as_json: bool) -> None:
    """Recompute the exported receipts in FILE from the file alone. Exit code 1 when one does not come out."""
    show = Show(as_json)
    try:
        with file.open("rb") as lines:
            verdict = check(_lines_of(lines))
    except OSError as error:
        raise StartError(f"The file {file} cannot be read: {error.strerror}.") from None
    if as_json:
        show.json(msgspec.to_builtins(verdict) | {"ok": verdict.ok})
    else:
        show.rows([msgspec.to_builtins(one) for one in verdict.receipts], _COLUMNS, "The file holds no receipt.")
        for complaint in verdict.complaints:
            show.line(f"The chain: {complaint}.")
        if verdict.ok:
            show.line(
                f"All of it can be recomputed. The chain from batch {verdict.first} ends with batch {verdict.last} at "
                f"{verdict.head}; compare that with what others were shown."
            )
        else:
            show.line("NOT correct: see what was found above.")
    if not verdict.ok:
        raise SystemExit(1)


_COLUMNS = (
    Column("", lambda row: "FAILED" if row["complaints"] else "ok"),
    words("Receipt", "request_id"),
    words("Batch", "batch"),
    money("Amount", "amount_nano"),
    Column("Found", lambda row: "; ".join(row["complaints"]) or "–"),
)


def _lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Line by line, none longer than the bound."""
    while line := stream.readline(limits.EXPORT_LINE_BYTES_MAX):
        yield line


def _id(text: str | None) -> bytes | None:
    try:
        return None if text is None else id_from_text(text[: limits.NAME_CHARACTERS_MAX])
    except ValueError:
        raise bad_request(f"{text!r} is no request id. It looks like req_ and 32 hexadecimal digits.") from None
