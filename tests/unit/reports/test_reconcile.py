"""A vendor's bill against the books: each kind of difference gets its own name, and is posted once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.unit.reports.shop import ABROAD, DAY_NS, NEAR, NOON_NS, SMOL, VENDORS, Shop

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.clock import NS_PER_HOUR, ManualClock, iso_from_ns
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import End, Rated
from steelyard.ledger.operations import Why
from steelyard.ledger.reconciliation import Adjustment, Posted, post_adjustment
from steelyard.ledger.verify import verify
from steelyard.processes.office import Office
from steelyard.rating.rate import rate
from steelyard.reports.bill_file import Bill, columns_for, read_bill
from steelyard.reports.payables import PayableRow, payables
from steelyard.reports.reconcile import Name, Reconciliation, reconcile, vendor_kinds
from steelyard.storage.database import migrate, open_database

USED = Usage(1000, 200, 300, reasoning=50)
PAID = 1000 * 300 + 200 * 30 + 350 * 700  # nano at the vendors' list
DAY = iso_from_ns(NOON_NS)[:10]
UTC = zone_of("UTC")


@pytest.fixture
def trade(shop: Shop) -> Shop:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    return shop


def sell(shop: Shop, *, vendor: str = NEAR, usage: Usage = USED, end: End = End.COMPLETE, hours: int = 0) -> Rated:
    shop.clock.advance(hours * NS_PER_HOUR)
    one = shop.request("acme", usage, vendor=vendor, end=end)
    shop.sell(one)
    return one


def line(one: Rated, **changes: object) -> dict[str, object]:
    """What an honest vendor says of it."""
    usage = one.settlement.closed.usage
    told: dict[str, object] = {
        "request_id": text_from_id(one.settlement.opened.request_id),
        "timestamp": iso_from_ns(one.settlement.closed.closed_ns),
        "model": SMOL,
        "prompt_tokens": usage.prompt,
        "cached_tokens": usage.cached_input,
        "completion_tokens": usage.generated,
        "amount": text_from_nano(one.payable_nano),
        "currency": one.payable_currency,
    }
    return told | changes


def by_day(*rows: dict[str, object]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name not in {"request_id", "timestamp"}} for row in rows]


def bill(rows: list[dict[str, object]], kind: str = "openai", columns: str = "") -> Bill:
    text = "\n".join(json.dumps(row) for row in rows)
    return read_bill(text.encode(), columns_for({kind}, columns), UTC, "UTC")


def found(shop: Shop, rows: list[dict[str, object]], vendor: str = NEAR, **more: str) -> Reconciliation:
    return reconcile(shop.books, vendor, bill(rows, **more))


def names(one: Reconciliation) -> list[Name]:
    return [difference.name for difference in one.differences]


def test_a_bill_that_says_the_same_agrees_to_the_nano(trade: Shop) -> None:
    sold = [sell(trade, hours=1), sell(trade)]
    same = found(trade, [line(one) for one in sold])
    assert (same.agreed, same.differences, same.ours_nano, same.theirs_nano) == (2, (), 2 * PAID, 2 * PAID)
    assert (same.adjust_nano, same.currency, same.until_ns - same.since_ns) == (0, "CNY", DAY_NS)


def test_a_bill_abroad_is_compared_in_its_own_currency(trade: Shop) -> None:
    one = sell(trade, vendor=ABROAD)
    sell(trade, vendor=NEAR)
    same = found(trade, [line(one)], vendor=ABROAD)
    assert (same.differences, same.currency, same.ours_nano) == ((), "USD", PAID)


@pytest.mark.parametrize(
    ("change", "name", "adjust"),
    [
        ({"amount": "0.0005"}, Name.ROUNDING, 500_000 - PAID),
        ({"amount": "0.01"}, Name.ROUNDING, 10_000_000 - PAID),
        ({"amount": "0.000900000"}, Name.PRICE, 900_000 - PAID),
        ({"prompt_tokens": 1300, "amount": "0.000600000"}, Name.COUNTS, 600_000 - PAID),
        ({"cached_tokens": 0, "amount": "0.000605000"}, Name.CACHE, 605_000 - PAID),
        ({"prompt_tokens": 1400, "amount": "0.000611000"}, Name.CACHE, 611_000 - PAID),
    ],
)
def test_each_difference_of_a_request_has_its_name(
    trade: Shop, change: dict[str, object], name: Name, adjust: int
) -> None:
    other, one = sell(trade), sell(trade)
    seen = found(trade, [line(other), line(one, **change)])
    assert (names(seen), seen.agreed, seen.adjust_nano) == ([name], 1, adjust)
    difference = seen.differences[0]
    assert difference.place == line(one)["request_id"]
    assert difference.difference_nano == difference.theirs_nano - difference.ours_nano == adjust


def test_what_was_cut_is_trued_up(trade: Shop) -> None:
    cut = sell(trade, end=End.CLIENT_GONE)
    seen = found(trade, [line(cut, completion_tokens=900, amount="0.000936000")])
    assert (names(seen), seen.adjust_nano) == ([Name.ESTIMATE], 936_000 - PAID)


def test_what_is_missing_stays_and_what_is_extra_is_adjusted(trade: Shop) -> None:
    one, other = sell(trade), sell(trade)
    stranger = line(one, request_id=text_from_id(b"?" * 16))
    theirs = line(one, request_id="chatcmpl-17", amount="0.25")  # an id of the vendor's own
    seen = found(trade, [line(other), stranger, theirs])
    assert sorted(names(seen)) == [Name.EXTRA, Name.EXTRA, Name.MISSING]
    assert seen.adjust_nano == PAID + 250_000_000


def test_a_request_billed_on_the_next_day_is_found_all_the_same(trade: Shop) -> None:
    before = sell(trade)
    trade.clock.advance(DAY_NS)
    after = sell(trade)
    late = line(before, timestamp=iso_from_ns(after.settlement.closed.closed_ns))
    seen = found(trade, [late, line(after)])
    assert (seen.agreed, seen.differences) == (2, ())


def test_days_of_models_are_compared_where_the_bill_has_no_ids(trade: Shop) -> None:
    sell(trade), sell(trade)
    day = {"date": DAY, "model": SMOL, "currency": "CNY"}
    counts = {"prompt_tokens": 2400, "cached_tokens": 400, "completion_tokens": 700}
    right = day | counts | {"amount": text_from_nano(2 * PAID)}
    assert found(trade, [right]).differences == ()
    halves = [right | {name: value // 2 for name, value in counts.items()} | {"amount": text_from_nano(PAID)}] * 2
    assert found(trade, halves).differences == ()
    assert names(found(trade, [right | {"amount": "0.0011"}])) == [Name.ROUNDING]
    more = right | {"prompt_tokens": 3600, "requests": 3, "amount": text_from_nano(3 * PAID)}
    assert names(found(trade, [more])) == [Name.EXTRA]
    assert names(found(trade, [more | {"requests": 2}])) == [Name.COUNTS]
    other = found(trade, [right | {"model": "another"}])
    assert sorted(names(other)) == [Name.EXTRA, Name.MISSING]


def test_what_is_on_the_other_side_of_midnight_is_a_matter_of_clocks(trade: Shop) -> None:
    sell(trade)
    trade.clock.advance(DAY_NS)
    sell(trade), sell(trade)
    trade.clock.advance(DAY_NS)
    sell(trade)
    days = [iso_from_ns(NOON_NS + number * DAY_NS)[:10] for number in range(3)]
    rows = [
        {"date": day, "model": SMOL, "amount": text_from_nano(times * PAID), "currency": "CNY"}
        for day, times in zip(days, (2, 1, 1), strict=True)
    ]
    seen = found(trade, rows)
    assert (names(seen), seen.adjust_nano) == ([Name.WINDOW, Name.WINDOW], 0)
    apart = [rows[0], rows[1] | {"amount": text_from_nano(2 * PAID)}, rows[2] | {"amount": "0.000000"}]
    assert names(found(trade, apart)) == [Name.PRICE, Name.PRICE], "a day between them agrees"


def test_the_bills_own_zone_says_what_a_day_is(trade: Shop) -> None:
    sell(trade, hours=6)  # 18:00 UTC is the next morning in Shanghai
    rows = [{"date": iso_from_ns(NOON_NS + DAY_NS)[:10], "amount": text_from_nano(PAID), "currency": "CNY"}]
    text = "\n".join(json.dumps(row) for row in rows).encode()
    zone = "Asia/Shanghai"
    there = read_bill(text, columns_for({"openai"}), zone_of(zone), zone)
    assert reconcile(trade.books, NEAR, there).differences == ()
    assert sorted(names(reconcile(trade.books, NEAR, bill(rows)))) == [Name.EXTRA]


def test_columns_are_read_by_the_vendors_table_or_as_asked(trade: Shop) -> None:
    sell(trade)
    counts = "prompt_cache_hit_tokens,prompt_cache_miss_tokens,completion_tokens"
    text = f"Datum,Modell,{counts},Kosten\n{DAY},{SMOL},200,1000,350,"
    asked = columns_for({"deepseek"}, "day=Datum, model=Modell, amount=Kosten")
    read = read_bill(f"{text}¥{text_from_nano(PAID)}\n".encode(), asked, UTC, "UTC")
    assert reconcile(trade.books, NEAR, read).differences == ()
    anthropic = {"date": DAY, "input_tokens": 1000, "cache_read_input_tokens": 200, "output_tokens": 350}
    assert bill([anthropic | {"amount": "1"}], "anthropic").lines[0].usage == Usage(1000, 200, 350)
    assert bill([anthropic | {"amount": "1"}], "dashscope").lines[0].usage == Usage(1000, 0, 350)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no line"),
        (b"\xff\xfe\x00", "neither CSV nor JSON"),
        (b'{"amount": ', "neither CSV nor JSON"),
        (b"date,amount\n2026-11-03,x\n", "Line 2: 'x' is no number"),
        (b'date,amount\n2026-11-03,"0,50"\n', "Line 2: '0,50' has a comma that groups no thousands"),
        (b'date,amount\n2026-11-03,"1.234,56"\n', "groups no thousands"),
        (b'date,amount\n2026-11-03,"0,123"\n', "groups no thousands"),
        (b"date,amount\n2026-11-03,0,50\n", "Line 2 has more values than the file has columns"),
        (b"date,amount,model\n2026-11-03,1,m\n2026-11-04,1,234.50,m\n", "Line 3 has more values"),
        (b"date,amount\nyesterday,1\n", "Line 2"),
        (b"date,amount,prompt_tokens,completion_tokens\n2026-11-03,1,1.5,1\n", "no whole count"),
        (b"date,amount,currency\n2026-11-03,1,CNY\n2026-11-03,1,USD\n", "One bill has one"),
        (b"date,amount,currency\n2026-11-03,1,JPY\n", "JPY"),
    ],
)
def test_a_bill_that_cannot_be_read_is_refused_with_its_line(text: bytes, says: str) -> None:
    with pytest.raises(CallerError) as refused:
        read_bill(text, columns_for(set()), UTC, "UTC")
    assert refused.value.status == 400
    assert says in refused.value.message


def test_commas_between_thousands_are_no_decimals() -> None:
    read = read_bill(b'date,amount\n2026-11-03,"$1,234,567.89"\n', columns_for(set()), UTC, "UTC")
    assert [one.amount_nano for one in read.lines] == [1_234_567_890_000_000]


def test_a_comma_at_the_end_of_a_line_is_no_value() -> None:
    read = read_bill(b"date,amount\n2026-11-03,1.5,\n", columns_for(set()), UTC, "UTC")
    assert [one.amount_nano for one in read.lines] == [1_500_000_000]


def test_a_bill_without_times_or_amounts_or_a_vendor_is_refused(trade: Shop) -> None:
    one = sell(trade)
    timeless = {name: value for name, value in line(one).items() if name != "timestamp"}
    for rows, says in (([timeless], "--since"), ([{"date": DAY, "model": SMOL}], "--columns amount")):
        with pytest.raises(CallerError) as refused:
            found(trade, rows)
        assert says in refused.value.message
    bounded = reconcile(trade.books, NEAR, bill([timeless]), NOON_NS - DAY_NS, NOON_NS + DAY_NS)
    assert bounded.differences == ()
    with pytest.raises(CallerError) as refused:
        vendor_kinds(trade.books, "nobody")
    assert refused.value.status == 404
    assert vendor_kinds(trade.books, NEAR) == set()
    for columns in ("amount", "sum=x", "amount="):
        with pytest.raises(CallerError):
            columns_for(set(), columns)


# --- posting ------------------------------------------------------------------------------------------------------

WHY = Why("bill of September", "li")


def adjusted(shop: Shop, one: Reconciliation) -> Posted:
    known = (one.adjust_nano, one.adjusted_before_nano)
    asked = Adjustment(one.vendor, one.file, one.currency, one.since_ns, one.until_ns, *known)
    return post_adjustment(shop.books, asked, WHY, shop.clock)


def test_a_bill_is_posted_once_and_counts_against_the_next_of_its_period(trade: Shop) -> None:
    one = sell(trade, end=End.CLIENT_GONE)
    up = [line(one, completion_tokens=900, amount="0.000936000")]
    first = found(trade, up)
    posted = adjusted(trade, first)
    assert posted.batch_id is not None and not posted.again
    assert adjusted(trade, first) == Posted(posted.batch_id, again=True)
    owed = payables(trade.books)
    assert owed == [PayableRow(NEAR, "CNY", 1, 936_000, PAID, 1, PAID)]
    same = found(trade, [*up, {"timestamp": iso_from_ns(NOON_NS), "amount": "0", "currency": "CNY"}])
    assert (same.adjusted_before_nano, same.adjust_nano) == (936_000 - PAID, 0)
    assert adjusted(trade, same) == Posted(None, again=False)
    down = found(trade, [line(one, amount="0.000100000")])
    assert down.adjust_nano == 100_000 - 936_000
    assert adjusted(trade, down).batch_id is not None
    assert payables(trade.books)[0].payable_nano == 100_000
    findings = verify(trade.books, rate, tariffs_by_id(trade.books))
    assert [finding.detail for finding in findings if not finding.ok] == []


def test_of_two_bills_that_were_compared_at_once_the_second_is_compared_again(trade: Shop) -> None:
    one = sell(trade)
    first, second = (found(trade, [line(one, amount=amount)]) for amount in ("0.000936000", "0.000937000"))
    adjusted(trade, first)
    with pytest.raises(CallerError) as refused:
        adjusted(trade, second)
    assert (refused.value.status, refused.value.code) == (409, "changed_meanwhile")
    adjusted(trade, found(trade, [line(one, amount="0.000937000")]))
    assert payables(trade.books)[0].payable_nano == 937_000


def test_bills_of_overlapping_periods_are_not_both_posted(trade: Shop) -> None:
    one = sell(trade)
    adjusted(trade, found(trade, [line(one, amount="1")]))
    wider = reconcile(trade.books, NEAR, bill([line(one, amount="2")]), NOON_NS - 5 * DAY_NS, NOON_NS + DAY_NS)
    with pytest.raises(CallerError) as refused:
        adjusted(trade, wider)
    assert (refused.value.status, refused.value.code) == (409, "period_overlaps")


@pytest.fixture
def office(tmp_path: Path) -> Callable[[dict[str, object]], dict[str, object]]:
    engine: Engine = open_database(tmp_path / "office.db")
    migrate(engine)
    desk = Office(engine, ManualClock(NOON_NS))
    desk.command("prices.load", {"text": VENDORS})
    return lambda payload: dict(desk.command("reconcile.post", payload))


def test_the_office_posts_with_a_reason_what_is_past(office: Callable[[dict[str, object]], dict[str, object]]) -> None:
    asked: dict[str, object] = {
        "vendor": NEAR, "file": "ab" * 32, "currency": "CNY", "since_ns": NOON_NS - DAY_NS,
        "until_ns": NOON_NS - NS_PER_HOUR, "amount_nano": 17, "before_nano": 0, "reason": "bill", "actor": "li",
    }  # fmt: skip
    for change in (
        {"reason": ""}, {"file": "x"}, {"currency": "JPY"}, {"until_ns": NOON_NS + 1}, {"amount_nano": 1 << 63},
        {"vendor": ""}, {"since_ns": NOON_NS},
    ):  # fmt: skip
        with pytest.raises(CallerError) as refused:
            office(asked | change)
        assert refused.value.status == 400, change
    first = office(asked)
    assert first["posted_before"] is False
    assert office(asked | {"amount_nano": 18}) == {"batch": first["batch"], "posted_before": True}
