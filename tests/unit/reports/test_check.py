"""Exported receipts: what honest books export can be recomputed, and nothing in the file can be changed unseen."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.unit.reports.conftest import new_books
from tests.unit.reports.shop import Shop, busy_shop

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.ledger.verify import verify
from steelyard.rating.rate import rate
from steelyard.reports.check import check
from steelyard.reports.export import Wanted, export
from steelyard.reports.statement import statement
from steelyard.reports.sums import By
from steelyard.reports.usage import usage


def file_of(books: Connection, **wanted: Any) -> list[bytes]:
    return list(export(books, Wanted(**wanted)))


def told(lines: list[bytes], kind: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, lines) if one["line"] == kind]


def test_every_receipt_of_a_busy_shop_comes_out(busy: Shop) -> None:
    verdict = check(file_of(busy.books))
    assert verdict.ok, [one for one in verdict.receipts if not one.ok][:3]
    assert len(verdict.receipts) == busy.sold == len(busy.rated)
    assert sum(one.amount_nano for one in verdict.receipts) == sum(rated.charge_nano for rated in busy.rated)


def test_one_receipt_comes_with_the_chain_to_the_head(busy: Shop) -> None:
    rated = busy.rated[len(busy.rated) // 2]
    lines = file_of(busy.books, request_id=rated.settlement.opened.request_id)
    verdict = check(lines)
    assert verdict.ok
    assert [one.request_id for one in verdict.receipts] == [text_from_id(rated.settlement.opened.request_id)]
    assert verdict.batches == verdict.last - verdict.first + 1
    assert verdict.head == check(file_of(busy.books)).head
    few = list(export(busy.books, Wanted(rated.settlement.opened.request_id), links_max=2))
    assert check(few).ok
    assert len(told(few, "link")) == 2


def test_a_tenants_file_shows_nothing_of_others_but_digests(busy: Shop) -> None:
    mine, _, _ = busy.keys["acme"]
    lines = file_of(busy.books, tenant_id=mine.id)
    assert check(lines).ok
    text = b"".join(lines)
    rows = b"".join(base64.b64decode(line["row"]) for line in told(lines, "receipt"))
    others = {r.settlement.opened.request_id for r in busy.rated if r.settlement.opened.tenant_id != mine.id}
    assert others
    for request_id in others:
        assert request_id.hex().encode() not in text
        assert request_id not in rows
    for name in (b"beta", b"gamma", b"wallet:", b'"local"'):
        assert name not in text
    assert b"local" not in rows


def test_a_period_is_by_the_close(busy: Shop) -> None:
    closes = sorted(rated.settlement.closed.closed_ns for rated in busy.rated)
    since, until = closes[5], closes[-5]
    verdict = check(file_of(busy.books, since_ns=since, until_ns=until))
    assert verdict.ok
    assert len(verdict.receipts) == sum(since <= close < until for close in closes)


def test_nothing_wanted_is_an_empty_file(busy: Shop) -> None:
    assert file_of(busy.books, request_id=b"x" * 16) == []
    assert not check([]).ok


def _change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        at = line
        *path, last = name.split(".")
        for part in path:
            at = at[int(part)] if part.isdigit() else at[part]
        assert at[last] != value
        at[last] = value

    return change


def _flip(name: str) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        raw = bytearray(base64.b64decode(line[name]))
        raw[len(raw) // 2] ^= 1
        line[name] = base64.b64encode(raw).decode()

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *[("receipt", _change(f"receipt.{name}", value)) for name, value in {
            "amount_nano": 1, "amount": "0.1", "prompt_tokens": 10**6, "output_tokens": 10**6, "cached_tokens": 10**6,
            "hold_nano": 3, "tariff": 99, "model": "other", "closed_at": "x", "end": "x", "batch": 1, "chain": "00",
            "short_by_one_read": True, "currency": "EUR", "request_id": "req_00", "state": "open", "opened_at": "x",
        }.items()],
        ("receipt", _change("receipt.lines.0.amount_nano", 1)),
        ("receipt", _change("receipt.lines.0.quantity", 1_000_000)),
        ("receipt", _flip("row")),
        ("receipt", _flip("private")),
        ("batch", _flip("header")),
        ("batch", _flip("entries")),
        ("batch", _flip("hash")),
        ("batch", _change("rows", [])),
        ("link", _flip("content")),
        ("link", _flip("hash")),
        ("link", _change("id", 10**6)),
        ("tariff", _change("tariff.lines.2.pico", 1)),
        ("tariff", _change("tariff.subject", "other")),
    ],
)  # fmt: skip
def test_any_change_is_seen(shop: Shop, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    for _ in range(3):
        shop.sell(shop.request("acme", Usage(50, 10, 30, 10**9, 8 * 10**6)), shop.request("acme", Usage(5, 1, 3)))
        shop.topup("acme", 7)
    lines = file_of(shop.books, since_ns=0)
    assert check(lines).ok
    place = next(number for number, line in enumerate(lines) if json.loads(line)["line"] == kind)
    line = json.loads(lines[place])
    change(line)
    lines[place] = json.dumps(line).encode()
    assert not check(lines).ok


def test_a_line_left_out_or_twice_is_seen(busy: Shop) -> None:
    lines = file_of(busy.books)
    assert check(lines).ok
    for place in range(1, len(lines), 7):
        kind = json.loads(lines[place])["line"]
        without = lines[:place] + lines[place + 1 :]
        if kind not in {"receipt"} and place != len(lines) - 1:
            assert not check(without).ok, kind
        if kind != "tariff":
            assert not check([*lines[: place + 1], *lines[place:]]).ok, kind


def test_the_history_of_other_books_does_not_fit(busy: Shop, tmp_path: Path) -> None:
    """Both halves are sound; only the previous hash tells."""
    with new_books(tmp_path) as books:
        others = file_of(busy_shop(books, seed=8).books)
    mine = file_of(busy.books)
    assert check(others).ok
    starts = [number for number, line in enumerate(mine) if json.loads(line)["line"] == "batch"]
    cut = starts[len(starts) // 2]
    next_id = json.loads(mine[cut])["id"]
    rest = [number for number, line in enumerate(others) if json.loads(line).get("id") == next_id]
    tariffs = [line for line in others if json.loads(line)["line"] == "tariff"]
    verdict = check([*mine[:cut], *tariffs, *others[rest[0] :]])
    assert not verdict.ok
    assert f"batch {next_id} does not follow" in verdict.complaints[0]


@pytest.mark.parametrize(
    "lines",
    [[b"{}"], [b"\xff"], [b'{"line":"link","id":1,"hash":"AA=="}'], [b'{"line":"file","steelyard":"x","format":9}']],
)
def test_another_file_is_refused_in_one_line(lines: list[bytes]) -> None:
    with pytest.raises(CallerError) as refused:
        check(lines)
    assert (refused.value.status, refused.value.code) == (400, "not_an_export")


def test_every_bucket_and_who_counted_stand_on_the_receipt(shop: Shop) -> None:
    shop.tenant("acme")
    used = Usage(10, 20, 30, 400, 5, 6, 7)
    shop.sell(shop.request("acme", used, estimated=True), shop.request("acme", Usage(1)))
    lines = file_of(shop.books)
    assert check(lines).ok
    first, second = (line["receipt"] for line in told(lines, "receipt"))
    counts = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "estimated")
    assert [first[name] for name in counts] == [36, 20, 6, 37, 7, True]
    assert [second[name] for name in counts] == [1, 0, 0, 0, 0, False]
    assert {line["meter"]: line["quantity"] for line in first["lines"]} == {
        "input": 10, "cached_input": 20, "cache_write": 6, "output": 30, "reasoning": 7,
    }  # fmt: skip
    for name in ("estimated", "reasoning_tokens", "cache_write_tokens"):
        changed = [json.loads(line) for line in lines]
        for line in changed:
            if line["line"] == "receipt":
                line["receipt"][name] = 0 if name != "estimated" else False
        assert not check([json.dumps(line).encode() for line in changed]).ok


def test_an_answer_that_was_given_before_stands_in_the_books_under_its_own_name(shop: Shop) -> None:
    shop.tenant("acme")
    shop.sell(shop.request("acme", Usage(reused_input=12, reused_output=30)), shop.request("acme", Usage(1)))
    lines = file_of(shop.books)
    assert check(lines).ok
    receipt = told(lines, "receipt")[0]["receipt"]
    names = ("prompt_tokens", "cached_tokens", "output_tokens", "reused_tokens")
    assert [receipt[name] for name in names] == [12, 0, 30, 42]
    assert [(line["meter"], line["quantity"]) for line in receipt["lines"]] == [
        ("reused_input", 12),
        ("reused_output", 30),
    ]
    assert receipt["amount_nano"] == sum(line["amount_nano"] for line in receipt["lines"]) > 0, "never at nothing"
    changed = [json.loads(line) for line in lines]
    for line in changed:
        if line["line"] == "receipt":
            line["receipt"]["reused_tokens"] = 0
    assert not check([json.dumps(line).encode() for line in changed]).ok
    (used,) = usage(shop.books, By.MODEL).totals
    assert (used.prompt, used.generated, used.reused_input, used.reused_output) == (13, 30, 12, 30)
    (line,) = statement(shop.books, "acme").charges
    assert (line.reused_input, line.reused_output) == (12, 30)
    assert all(finding.ok for finding in verify(shop.books, rate, tariffs_by_id(shop.books)))
