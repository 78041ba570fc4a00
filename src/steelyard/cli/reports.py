"""What the books say: `usage`, `statement`, `margin`, `receipt`, `verify`. Reads only."""

from typing import Any

import click
import msgspec

from steelyard.cli.bar import Bar
from steelyard.cli.desk import Desk
from steelyard.cli.epilog import examples
from steelyard.cli.listing import Listing
from steelyard.cli.options import at_desk, since_option, until_option
from steelyard.cli.show import Column, Show, count, joules, money, percent, short_moment, words
from steelyard.gateway.figures import flat, period_ns
from steelyard.reports.margin import MARGIN_BY, margin
from steelyard.reports.statement import Statement, statement
from steelyard.reports.sums import By, Report, Totals
from steelyard.reports.usage import USAGE_BY, usage

_TOKENS = (
    count("Requests", "requests"),
    Column(
        "Prompt",
        lambda row: f"{row['input'] + row['cached_input'] + row['cache_write'] + row['reused_input']:,}",
        right=True,
    ),
    count("of it cached", "cached_input"),
    Column("Output", lambda row: f"{row['output'] + row['reasoning'] + row['reused_output']:,}", right=True),
    count("of it reasoning", "reasoning"),
)
_MONEY = (
    money("Charge", "charge_nano"),
    money("Cost", "cost_nano"),
    money("Margin", "margin_nano"),
    percent("Margin %", "margin_nano", "charge_nano"),
    joules("Energy", "energy_uj", "measured_uj"),
)
_NOTHING = "Nothing was served in this period."


@click.command(
    "usage", epilog=examples("steelyard usage --by key --tenant acme", "steelyard usage --by day --since 7d")
)
@click.option(
    "--by",
    type=click.Choice([str(by) for by in USAGE_BY]),
    default="model",
    show_default=True,
    help="What a row stands for.",
)
@click.option("--tenant", help="Only this tenant.")
@since_option
@until_option
@at_desk
def usage_command(desk: Desk, show: Show, by: str, tenant: str | None, since: str | None, until: str | None) -> None:
    """Who used what: requests, tokens and charges."""
    start, end = period_ns(since, until, desk.clock.now_ns())
    with desk.read() as connection:
        found = usage(connection, By(by), start, end, tenant)
    note = (words("Of", "note"),) if by == By.KEY else ()
    _show_report(show, found, (*note, *_TOKENS, money("Charge", "charge_nano")))


@click.command(
    "margin", epilog=examples("steelyard margin --by tenant", "steelyard margin --by day --since 30d --json")
)
@click.option(
    "--by",
    type=click.Choice([str(by) for by in MARGIN_BY]),
    default="model",
    show_default=True,
    help="What a row stands for.",
)
@since_option
@until_option
@at_desk
def margin_command(desk: Desk, show: Show, by: str, since: str | None, until: str | None) -> None:
    """What was earned and what it cost. Energy is labelled: measured, or modelled from busy time."""
    start, end = period_ns(since, until, desk.clock.now_ns())
    with desk.read() as connection:
        found = margin(connection, By(by), start, end)
    _show_report(show, found, (count("Requests", "requests"), *_MONEY))


def _show_report(show: Show, found: Report, columns: tuple[Column, ...]) -> None:
    """The groups, and under them the totals per currency."""
    rows = [flat(group) for group in found.groups]
    if show.as_json:
        show.json(rows)
        return
    if len(rows) > 1 or found.left_off:
        rows += [{"name": "total", "note": "", **total} for total in map(_sums, found.totals)]
    show.rows(rows, (words(str(found.by).capitalize(), "name"), *columns), _NOTHING)
    if found.left_off:
        show.line(f"{found.left_off} more are in the total only; --since and --until narrow it down.")


def _sums(totals: Totals) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(totals)
    return plain


@click.command("statement", epilog=examples("steelyard statement acme --since 2026-11-01 --until 2026-12-01"))
@click.argument("tenant")
@since_option
@until_option
@at_desk
def statement_command(desk: Desk, show: Show, tenant: str, since: str | None, until: str | None) -> None:
    """The wallet of TENANT: opening, everything that moved it, closing, to the nano; free credit below."""
    start, end = period_ns(since, until, desk.clock.now_ns())
    with desk.read() as connection:
        found = statement(connection, tenant, start, end)
    if show.as_json:
        show.json(found)
        return
    show.rows(_statement_rows(found), _STATEMENT_COLUMNS, "")
    if found.grants:
        rows = [{**msgspec.to_builtins(line), "currency": found.currency} for line in found.grants]
        show.rows(rows, _GRANT_COLUMNS, "")


_GRANT_COLUMNS = (
    words("Grant", "account"),
    money("Given", "granted_nano"),
    money("Used", "spent_nano"),
    money("Expired", "taken_back_nano"),
)
_STATEMENT_COLUMNS = (
    words("Day", "day"),
    words("What", "what"),
    count("Requests", "requests"),
    count("Prompt", "prompt"),
    count("Output", "output"),
    money("Amount", "amount_nano"),
)


def _told(kind: str, note: str) -> str:
    return f"{kind} {note.strip()}".strip()  # earlier notes begin with a blank where no reason was given


def _statement_rows(found: Statement) -> list[dict[str, object]]:
    """Opening, everything that moved the wallet by day, closing."""

    def row(day: str, what: str, amount_nano: int, **counts: int) -> dict[str, object]:
        return {"day": day, "what": what, "amount_nano": amount_nano, "currency": found.currency, **counts}

    moved = [
        row(short_moment(topup.posted_ns)[:10], _told("top-up", topup.note), topup.amount_nano)
        for topup in found.topups
    ]
    moved += [
        row(
            line.day,
            line.model,
            -line.amount_nano,
            requests=line.requests,
            prompt=line.input + line.cached_input + line.cache_write + line.reused_input,
            output=line.output + line.reasoning + line.reused_output,
        )
        for line in found.charges
    ]
    moved += [
        row(short_moment(line.posted_ns)[:10], _told("correction", line.note), -line.amount_nano)
        for line in found.corrections
    ]
    moved += [
        row(short_moment(line.posted_ns)[:10], _told(line.kind, line.note), line.amount_nano) for line in found.moves
    ]
    moved.sort(key=lambda one: str(one["day"]))
    opening = row("" if found.since_ns is None else short_moment(found.since_ns)[:10], "opening", found.opening_nano)
    closing = row("" if found.until_ns is None else short_moment(found.until_ns)[:10], "closing", found.closing_nano)
    return [opening, *moved, closing]


@click.group(cls=Listing, epilog=examples("steelyard receipt show req_0199…"))
def receipt() -> None:
    """Receipts: what a customer can check."""


@receipt.command("show")
@click.argument("request_id", metavar="ID")
@at_desk
def receipt_show(desk: Desk, show: Show, request_id: str) -> None:
    """The receipt of one request (its x-request-id)."""
    found = desk.command("receipt", {"request_id": request_id})
    if show.as_json:
        show.json(found)
        return
    show.line(
        f"{found['request_id']}  {found['model']}  {found['state']}"
        + (f", ended {found['end']}" if found["end"] else "")
        + (", at most one read short" if found["short_by_one_read"] else "")
        + (", counted by us: the vendor gave no counts" if found["estimated"] else "")
    )
    show.line(f"opened {found['opened_at']}, closed {found['closed_at'] or '–'}, tariff version {found['tariff']}")
    rows = [{**line, "currency": found["currency"]} for line in found["lines"]]
    total = {"meter": "total", "quantity": None, "amount_nano": found["amount_nano"], "currency": found["currency"]}
    show.rows([*rows, total], _RECEIPT_COLUMNS, "")
    if found["chain"]:
        show.line(f"posted in batch {found['batch']}, chained hash {found['chain']}")


_RECEIPT_COLUMNS = (
    Column("For", lambda row: str(row["meter"]).replace("_", " ")),
    count("Tokens", "quantity"),
    Column("Price", lambda row: f"{row['text']} per {row['per']:,}" if "text" in row else "", right=True),
    money("Amount", "amount_nano"),
)


@click.command("verify", epilog=examples("steelyard verify && echo sound"))
@at_desk
def verify_command(desk: Desk, show: Show) -> None:
    """Check the invariants over every row of the books, and replay the journals. Exit code 1 when one does not hold."""
    found = checked(desk)
    if show.as_json:
        show.json(found)
    else:
        show.rows(found["findings"], _FINDING_COLUMNS, "")
        show.line("The books are sound." if found["ok"] else "The books are NOT sound: see the findings above.")
    if not found["ok"]:
        raise SystemExit(1)


def checked(desk: Desk) -> dict[str, Any]:
    """Every finding as plain values. The replay is made here rather than in the books, so that it can be watched."""
    from steelyard.processes.replay import replay  # the whole settling path: only this command needs it

    found: dict[str, Any] = desk.command("verify", {"replay": False})
    with desk.read() as connection, Bar("Replaying the journals", desk.clock) as bar:
        findings = found["findings"] + msgspec.to_builtins(replay(connection, desk.data.journals, progress=bar.at))
    findings.sort(key=lambda finding: int(finding["invariant"][1:]))
    return {"findings": findings, "ok": all(finding["ok"] for finding in findings)}


_FINDING_COLUMNS = (
    Column("", lambda row: "ok" if row["ok"] else "FAILED"),
    words("Invariant", "invariant"),
    words("It says", "title"),
    words("Found", "detail"),
)
