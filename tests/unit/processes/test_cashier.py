"""The money commands over a real database: what each moves, what it refuses, and that a repeat does nothing more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event, insert, select, update
from tests.fakes.ledger import TARIFFS, Requests, books

from steelyard.identity.store import add_tenant
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S, ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Use
from steelyard.kernel.settled import Rated, Settlement
from steelyard.ledger.posting import open_wallet, post
from steelyard.ledger.purse import Purse
from steelyard.ledger.teller import Teller
from steelyard.ledger.verify import verify
from steelyard.processes.office import Office
from steelyard.rating.rate import rate
from steelyard.storage import tables

pytestmark = pytest.mark.postgres
CNY = 10**9
DAY_NS = 24 * NS_PER_HOUR
WHY = {"reason": "agreed by phone", "actor": "mia"}


class Till:
    """An office over books with two tenants (5 CNY each) and one in dollars, and a clock."""

    def __init__(self, place: Path | DatabaseUrl) -> None:
        self.clock = ManualClock(1_800_000_000 * NS_PER_S)
        self.engine: Engine = books(place, clock=self.clock)
        self.requests = Requests(self.clock)
        self.oldest_open: int | None = None
        self.teller = Teller()
        self.office = Office(self.engine, self.clock, holds=self.teller, oldest_open=lambda: self.oldest_open)
        with self.engine.begin() as connection:
            tenant = add_tenant(connection, "gamma", "USD", self.clock)
            open_wallet(connection, tenant.id, tenant.name, tenant.currency)

    def do(self, op: str, **payload: Any) -> dict[str, Any]:
        reply: dict[str, Any] = self.office.command(op, payload)
        return reply

    def refusal(self, op: str, **payload: Any) -> tuple[int, str, str | None]:
        before = self.purses()
        with pytest.raises(CallerError) as refused:
            self.office.command(op, payload)
        assert self.purses() == before
        return refused.value.status, refused.value.code, refused.value.param

    def purses(self) -> dict[str, tuple[int, int, int]]:
        """Tenant → wallet, what grants have left, available."""
        listed = self.office.command("tenant.list", {})
        return {one["name"]: (one["balance_nano"], one["granted_nano"], one["available_nano"]) for one in listed}

    def serve(self, tokens: int, tenant_id: int = 1) -> Rated:
        """A request that costs 1.5 micro per token."""
        rated = self.requests.rated(tenant_id, hold_nano=10**10, usage=Usage(output=tokens))
        with self.engine.begin() as connection:
            post(connection, [rated], {}, self.clock)
        return rated

    def sound(self) -> None:
        with self.engine.connect() as connection:
            assert [one.detail for one in verify(connection, rate, TARIFFS) if not one.ok] == []

    def accounts(self) -> dict[tuple[str, str], int]:
        """(name, currency) → credit − debit."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(tables.accounts))
            return {(row.name, row.currency): row.credit_nano - row.debit_nano for row in rows}


@pytest.fixture
def till(place: Path | DatabaseUrl) -> Iterator[Till]:
    till = Till(place)
    yield till
    till.sound()
    till.engine.dispose()


def test_a_grant_is_spent_before_the_wallet_and_expires(till: Till) -> None:
    expires_ns = till.clock.now_ns() + DAY_NS
    shown = till.do("wallet.grant", tenant="acme", amount="1", expires_ns=expires_ns, **WHY)
    assert [(one["account"], one["left_nano"], one["expires_ns"]) for one in shown["grants"]] == [
        ("grant:acme#1", CNY, expires_ns)
    ]
    till.serve(400_000)  # 0.6
    assert till.purses()["acme"] == (5 * CNY, 4 * CNY // 10, 54 * CNY // 10)
    till.serve(400_000)
    assert till.purses()["acme"] == (48 * CNY // 10, 0, 48 * CNY // 10)
    till.do("wallet.grant", tenant="acme", amount="2", expires_ns=till.clock.now_ns() + DAY_NS)
    till.clock.advance(DAY_NS)
    assert till.purses()["acme"] == (48 * CNY // 10, 0, 48 * CNY // 10)
    till.office.command("time.passed", {"due": {1: 5 * CNY // 10}})  # 1.5 are still held for
    assert till.accounts()["grant:acme#2", "CNY"] == 15 * CNY // 10
    outcome = till.office.execute("time.passed", {"due": {1: 15 * CNY // 10}})
    assert outcome.purses == {1: Purse(48 * CNY // 10)}
    assert till.accounts()["promotion", "CNY"] == -CNY  # what was used
    assert till.do("wallet.show", tenant="acme")["grants"] == []


@pytest.mark.parametrize("amount", ["0", "-1", "", "x", "99999999999", None])
@pytest.mark.parametrize("op", ["wallet.topup", "wallet.grant", "wallet.refund", "wallet.transfer", "wallet.allowance"])
def test_amounts_that_cannot_be(till: Till, op: str, amount: object) -> None:
    rest = {"to": "beta", "expires_ns": 2 * till.clock.now_ns(), "every": "day"}
    assert till.refusal(op, tenant="acme", amount=amount, **rest) == (400, "invalid_request", "amount")


def test_what_cannot_be_meant(till: Till) -> None:
    assert till.refusal("wallet.grant", tenant="acme", amount="1", expires_ns=till.clock.now_ns())[2] == "expires"
    assert till.refusal("wallet.grant", tenant="nobody", amount="1", expires_ns=1)[0] == 404
    assert till.refusal("wallet.adjust", tenant="acme", amount="0", **WHY)[2] == "amount"
    assert till.refusal("wallet.adjust", tenant="acme", amount="1") == (400, "invalid_request", "reason")
    assert till.refusal("wallet.limit", tenant="acme", amount="-1")[2] == "amount"
    assert till.refusal("wallet.transfer", tenant="acme", to="acme", amount="1")[2] == "to"
    assert till.refusal("wallet.transfer", tenant="acme", to="beta", amount="1", rate="2", source="x")[2] == "rate"
    with pytest.raises(CallerError, match="Name the 'source' of the rate"):
        till.do("wallet.transfer", tenant="acme", to="gamma", amount="1", rate="2")
    assert till.refusal("wallet.transfer", tenant="acme", to="gamma", amount="1")[2] == "rate"
    assert till.refusal("wallet.allowance", tenant="acme", amount="1", every="year")[2] == "every"
    assert till.refusal("wallet.allowance", tenant="acme", amount="1", every="day", zone="Mars")[2] == "zone"
    assert till.refusal("wallet.topup", tenant="acme", amount="1", note="x" * 501)[2] == "note"
    assert till.refusal("wallet.topup", tenant="acme", amount="1", actor="x" * 65)[2] == "actor"
    assert till.refusal("wallet.topup", tenant="acme", amount="1", idempotency_key="x" * 129)[2] == "idempotency_key"


@pytest.mark.parametrize("rate", ["0", "-1", "1e9", "x", "1/0", "9" * 41, f"1/{10**19}"])
def test_rates_that_cannot_be(till: Till, rate: str) -> None:
    asked = {"tenant": "acme", "to": "gamma", "amount": "1", "rate": rate, "source": "bank"}
    assert till.refusal("wallet.transfer", **asked)[2] == "rate"


def test_a_refund_pays_out_wallet_money_only(till: Till) -> None:
    till.do("wallet.grant", tenant="acme", amount="9", expires_ns=till.clock.now_ns() + DAY_NS)
    till.do("wallet.limit", tenant="acme", amount="9")
    assert till.refusal("wallet.refund", tenant="acme", amount="5.000000001") == (409, "wallet_short", "amount")
    assert till.do("wallet.refund", tenant="acme", amount="5", **WHY)["balance_nano"] == 0
    assert till.accounts()["cash", "CNY"] == -5 * CNY
    assert till.refusal("wallet.refund", tenant="acme", amount="0.000000001")[1] == "wallet_short"


def test_a_credit_limit_lets_a_wallet_go_below_zero(till: Till) -> None:
    till.do("wallet.limit", tenant="acme", amount="2", **WHY)
    till.serve(4_000_000)  # 6
    assert till.purses()["acme"] == (-CNY, 0, CNY)
    till.serve(4_000_000)  # one is left, the rest is ours
    assert till.purses()["acme"] == (-2 * CNY, 0, 0)
    assert till.accounts()["overrun:acme", "CNY"] == -5 * CNY
    till.clock.advance(1)
    assert till.do("wallet.limit", tenant="acme", amount="0")["available_nano"] == -2 * CNY
    assert till.do("wallet.limit", tenant="acme", amount="0")["changed"] is False


def test_a_limit_lowered_after_the_clock_stepped_back_ends_no_hold_from_before(till: Till) -> None:
    """Found by the simulator: the request seemed to be opened after the limit was lowered, and we bore its charge."""
    till.do("wallet.limit", tenant="acme", amount="10")
    till.clock.advance(3 * NS_PER_S)
    running = till.requests.rated(hold_nano=10 * CNY, usage=Usage(output=6_000_000))  # 9 of the wallet's 5
    opened = running.settlement.opened
    till.teller.open_wallet(1, Purse(5 * CNY, 10 * CNY))
    till.teller.hold(opened.request_id, 1, 10 * CNY, 0, "w0-1", Use(1, 1, opened.opened_ns, 0))
    till.clock.advance(-2 * NS_PER_S)
    till.do("wallet.limit", tenant="acme", amount="1")
    with till.engine.begin() as connection:
        post(connection, [running], {}, till.clock)
    till.teller.release(opened.request_id)
    assert till.purses()["acme"][0] == -4 * CNY


def test_a_request_is_charged_under_the_limit_it_was_held_under(till: Till) -> None:
    till.do("wallet.limit", tenant="acme", amount="10")
    till.clock.advance(1)
    opened = till.requests.opened(1, hold_nano=12 * CNY)
    till.clock.advance(1)
    till.do("wallet.limit", tenant="acme", amount="1")
    closed = till.requests.closed(opened, Usage(output=8_000_000))  # 12
    with till.engine.begin() as connection:
        post(connection, [rate(Settlement(opened, closed), TARIFFS[1], TARIFFS[2])], {}, till.clock)
    assert till.purses()["acme"] == (-7 * CNY, 0, -6 * CNY)


def test_an_adjustment_goes_either_way(till: Till) -> None:
    assert till.do("wallet.adjust", tenant="acme", amount="1.5", **WHY)["balance_nano"] == 65 * CNY // 10
    assert till.do("wallet.adjust", tenant="acme", amount="-6.5", **WHY)["balance_nano"] == 0
    assert till.refusal("wallet.adjust", tenant="acme", amount="-0.1", **WHY)[1] == "wallet_short"
    till.do("wallet.limit", tenant="acme", amount="1")
    assert till.do("wallet.adjust", tenant="acme", amount="-0.1", **WHY)["balance_nano"] == -CNY // 10


def test_a_transfer_within_a_currency(till: Till) -> None:
    till.do("wallet.transfer", tenant="acme", to="beta", amount="2", **WHY)
    assert [till.purses()[name][0] for name in ("acme", "beta")] == [3 * CNY, 7 * CNY]
    assert till.refusal("wallet.transfer", tenant="acme", to="beta", amount="3.1")[1] == "wallet_short"


def test_a_transfer_between_currencies_goes_through_fx(till: Till) -> None:
    asked = {"tenant": "acme", "to": "gamma", "amount": "1", "rate": "5/36", "source": "central bank, 27 November"}
    reply = till.do("wallet.transfer", **asked)
    assert reply["arrived_nano"] == 138_888_889  # 1/7.2, rounded once
    accounts = till.accounts()
    assert accounts["wallet:gamma", "USD"] == 138_888_889
    assert (accounts["fx", "CNY"], accounts["fx", "USD"]) == (CNY, -138_888_889)
    with till.engine.connect() as connection:
        row = connection.execute(select(tables.conversions)).one()
    assert (row.rate_numerator, row.rate_denominator, row.source) == (5, 36, "central bank, 27 November")
    till.do("ledger.reverse", batch=reply["batch"], **WHY)
    assert till.purses()["acme"][0] == 5 * CNY and till.purses()["gamma"][0] == 0


def test_half_a_nano_goes_to_the_even_one(till: Till) -> None:
    arrived = [
        till.do("wallet.transfer", tenant="acme", to="gamma", amount=f"0.00000000{nano}", rate="0.5", source="x")
        for nano in (3, 5)
    ]
    assert [one["arrived_nano"] for one in arrived] == [2, 2]
    tiny = {"tenant": "acme", "to": "gamma", "amount": "0.000000001", "rate": "0.5", "source": "x"}
    assert till.refusal("wallet.transfer", **tiny)[2] == "rate"


def test_every_kind_is_reversed_once(till: Till) -> None:
    till.do("wallet.topup", tenant="beta", amount="50")
    start = till.purses()
    expires_ns = till.clock.now_ns() + DAY_NS
    for op, payload in (
        ("wallet.topup", {"tenant": "acme", "amount": "1"}),
        ("wallet.grant", {"tenant": "acme", "amount": "1", "expires_ns": expires_ns}),
        ("wallet.refund", {"tenant": "acme", "amount": "1"}),
        ("wallet.adjust", {"tenant": "acme", "amount": "-1", **WHY}),
        ("wallet.transfer", {"tenant": "acme", "to": "beta", "amount": "1"}),
    ):
        batch = till.do(op, **payload)["batch"]
        assert till.purses() != start
        first = till.do("ledger.reverse", batch=batch, **WHY)
        assert till.purses() == start
        assert till.do("ledger.reverse", batch=batch, **WHY)["batch"] == first["batch"]
        assert till.purses() == start
        assert till.refusal("ledger.reverse", batch=first["batch"], **WHY)[1] == "not_reversible"


def test_a_reversal_that_is_not_covered_is_refused(till: Till) -> None:
    batch = till.do("wallet.topup", tenant="acme", amount="1")["batch"]
    till.do("wallet.refund", tenant="acme", amount="5.5")
    assert till.refusal("ledger.reverse", batch=batch, **WHY)[1] == "wallet_short"
    grant = till.do("wallet.grant", tenant="acme", amount="1", expires_ns=till.clock.now_ns() + DAY_NS)["batch"]
    till.serve(1)
    assert till.refusal("ledger.reverse", batch=grant, **WHY)[1] == "wallet_short"
    assert till.refusal("ledger.reverse", batch=999, **WHY)[0] == 404
    till.serve(1)
    with till.engine.connect() as connection:
        usage = (
            connection.execute(select(tables.batches.c.id).where(tables.batches.c.kind == "usage")).scalars().first()
        )
    assert till.refusal("ledger.reverse", batch=usage, **WHY)[1] == "not_reversible"


def test_a_request_whose_period_was_rated_again_is_not_credited_on_top(till: Till) -> None:
    closed = till.serve(1_000_000).settlement.closed
    row = {"book_hash": bytes(32), "since_ns": closed.closed_ns, "until_ns": closed.closed_ns + 1, "reason": "cheaper"}
    row |= {"batch_id": 1, "actor": "test", "posted_ns": closed.closed_ns}
    with till.engine.begin() as connection:
        connection.execute(insert(tables.corrections).values(row))
    request = text_from_id(closed.request_id)
    assert till.refusal("wallet.credit", request_id=request, **WHY)[:2] == (409, "rated_again")
    later = text_from_id(till.serve(1_000_000).settlement.opened.request_id)
    with till.engine.begin() as connection:
        connection.execute(update(tables.corrections).values(batch_id=None))  # it had found nothing to correct
    assert till.do("wallet.credit", request_id=request, **WHY)["amount_nano"] == 15 * CNY // 10
    assert till.do("wallet.credit", request_id=later, **WHY)["amount_nano"] == 15 * CNY // 10


def test_a_request_is_credited_at_most_what_it_was_charged(till: Till) -> None:
    request = text_from_id(till.serve(1_000_000).settlement.opened.request_id)  # 1.5
    assert till.do("wallet.credit", request_id=request, amount="1", **WHY)["balance_nano"] == 45 * CNY // 10
    assert till.refusal("wallet.credit", request_id=request, amount="0.6", **WHY) == (409, "above_charge", "amount")
    assert till.do("wallet.credit", request_id=request, **WHY)["amount_nano"] == CNY // 2
    assert till.refusal("wallet.credit", request_id=request, **WHY)[1] == "above_charge"
    assert till.refusal("wallet.credit", request_id="req_00", **WHY)[0] == 404
    assert till.purses()["acme"][0] == 5 * CNY


REPEATED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("wallet.topup", {"tenant": "acme", "amount": "1"}, {"amount": "2"}),
    ("wallet.grant", {"tenant": "acme", "amount": "1", "expires_ns": 2 * 10**18}, {"expires_ns": 2 * 10**18 + 1}),
    ("wallet.refund", {"tenant": "acme", "amount": "1"}, {"amount": "2"}),
    ("wallet.adjust", {"tenant": "acme", "amount": "-1", **WHY}, {"amount": "1"}),
    ("wallet.transfer", {"tenant": "acme", "to": "beta", "amount": "1"}, {"to": "gamma", "rate": "1", "source": "x"}),
    ("wallet.limit", {"tenant": "acme", "amount": "1"}, {"amount": "2"}),
    ("wallet.allowance", {"tenant": "acme", "amount": "1", "every": "day"}, {"every": "week"}),
]


@pytest.mark.parametrize(("op", "payload", "other"), REPEATED, ids=[op for op, *_ in REPEATED])
def test_a_repeat_does_nothing_more(till: Till, op: str, payload: dict[str, Any], other: dict[str, Any]) -> None:
    first = till.do(op, **payload, idempotency_key="k")
    after = till.purses()
    assert till.do(op, **payload, idempotency_key="k") == first
    assert till.purses() == after
    conflict = till.refusal(op, **{**payload, **other, "idempotency_key": "k"})
    assert conflict == (409, "idempotency_conflict", "idempotency_key")


def test_a_key_that_was_used_reverses_nothing(till: Till) -> None:
    batch = till.do("wallet.topup", tenant="acme", amount="1", idempotency_key="k")["batch"]
    conflict = till.refusal("ledger.reverse", batch=batch, idempotency_key="k", **WHY)
    assert conflict == (409, "idempotency_conflict", "idempotency_key")
    first = till.do("ledger.reverse", batch=batch, idempotency_key="r", **WHY)
    assert till.do("ledger.reverse", batch=batch, idempotency_key="r", **WHY)["batch"] == first["batch"]
    assert till.purses()["acme"][0] == 5 * CNY


def test_every_operation_says_who_and_why(till: Till) -> None:
    till.do("wallet.adjust", tenant="acme", amount="1", **WHY)
    with till.engine.connect() as connection:
        row = connection.execute(select(tables.operations).order_by(tables.operations.c.id.desc())).first()
        note = connection.execute(select(tables.batches.c.note).where(tables.batches.c.id == row.batch_id)).scalar_one()
    assert (row.kind, row.reason, row.actor, note) == (
        "adjustment",
        "agreed by phone",
        "mia",
        "agreed by phone (mia)",
    )


def test_the_largest_amounts(till: Till) -> None:
    most = f"{INT64_MAX // 1000 // 10**9}"
    for _ in range(3):
        till.do("wallet.topup", tenant="acme", amount=most)
    assert till.purses()["acme"][0] == 3 * int(most) * 10**9 + 5 * CNY
    fx = {"tenant": "acme", "to": "gamma", "amount": most, "rate": "1.1", "source": "x"}
    assert till.refusal("wallet.transfer", **fx)[2] == "rate"


# --- allowances and periods -----------------------------------------------------------------------------------------

MIDNIGHT_NS = 1_800_028_800 * NS_PER_S  # 2027-01-16 00:00 in Asia/Shanghai


def test_free_quota_reset_at_midnight_in_shanghai(till: Till) -> None:
    till.clock.advance(MIDNIGHT_NS - 2 * NS_PER_HOUR - till.clock.now_ns())
    shown = till.do("wallet.allowance", tenant="acme", amount="1", every="day", zone="Asia/Shanghai", **WHY)
    assert [one["expires_ns"] for one in shown["grants"]] == [MIDNIGHT_NS]
    till.serve(400_000)  # 0.6 of it
    assert till.office.command("time.passed", {"due": {}}) == {"next_ns": MIDNIGHT_NS}
    assert till.purses()["acme"][1] == 4 * CNY // 10  # once for its window
    till.clock.advance(2 * NS_PER_HOUR - 1)
    till.office.command("time.passed", {"due": {}})
    assert till.purses()["acme"][1] == 4 * CNY // 10
    till.clock.advance(1)
    till.office.command("time.passed", {"due": {1: 4 * CNY // 10}})
    shown = till.do("wallet.show", tenant="acme")
    assert [(one["left_nano"], one["expires_ns"]) for one in shown["grants"]] == [(CNY, MIDNIGHT_NS + DAY_NS)]
    till.clock.advance(3 * DAY_NS)  # slept through two windows: what they gave is gone
    till.office.command("time.passed", {"due": {1: CNY}})
    shown = till.do("wallet.show", tenant="acme")
    assert [(one["left_nano"], one["expires_ns"]) for one in shown["grants"]] == [(CNY, MIDNIGHT_NS + 4 * DAY_NS)]
    assert till.refusal("wallet.allowance", tenant="acme", amount="2", every="day")[:2] == (409, "already_exists")
    assert till.do("wallet.allowance.stop", tenant="acme")["stopped"] is True
    till.do("wallet.allowance", tenant="acme", amount="2", every="day", zone="Asia/Shanghai", **WHY)
    assert till.purses()["acme"][1] == CNY  # this window has given already
    assert till.do("wallet.allowance.stop", tenant="acme")["stopped"] is True
    till.clock.advance(DAY_NS)
    till.office.command("time.passed", {"due": {1: CNY}})
    assert till.purses()["acme"][1] == 0


def test_allowances_of_many_are_looked_for_at_once(till: Till) -> None:
    for number in range(12):
        till.do("tenant.add", name=f"tenant{number}", currency="CNY")
        till.do("wallet.allowance", tenant=f"tenant{number}", amount="1", every="day")
    asked: list[object] = []
    event.listen(till.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    till.office.command("time.passed", {"due": {}})
    assert len(asked) < 8, "no question for each of them"
    till.clock.advance(DAY_NS)
    asked.clear()
    outcome = till.office.execute("time.passed", {"due": {}})
    assert len(outcome.purses) == 12
    assert len(asked) < 12, "nor to give them"


def test_a_window_whose_end_has_moved_gives_nothing_twice(till: Till) -> None:
    """Countries change when their clocks change, within a month too: the books stood still at the second grant."""
    till.do("wallet.allowance", tenant="acme", amount="1", every="month")
    with till.engine.begin() as connection:
        connection.execute(update(tables.grants).values(expires_ns=tables.grants.c.expires_ns - NS_PER_HOUR))
    till.office.command("time.passed", {"due": {}})
    assert till.purses()["acme"][1] == CNY


def test_a_grant_changes_nobody_elses_purse(till: Till) -> None:
    asked = {"tenant": "acme", "amount": "1", "expires_ns": till.clock.now_ns() + DAY_NS}
    assert till.office.execute("wallet.grant", asked).purses.keys() == {1}
    asked = {"tenant": "beta", "amount": "1", "every": "day"}
    assert till.office.execute("wallet.allowance", asked).purses.keys() == {2}


def test_a_closed_period_takes_no_posting(till: Till) -> None:
    till.serve(1000)
    until_ns = till.clock.now_ns()
    late = till.requests.rated(usage=Usage(output=10))
    till.clock.advance(NS_PER_HOUR)
    until_ns += NS_PER_HOUR // 2
    till.do("wallet.topup", tenant="acme", amount="1")
    closed = till.do("ledger.close", until_ns=until_ns, zone="Asia/Shanghai", **WHY)
    with till.engine.begin() as connection:
        last = connection.execute(select(tables.batches.c.id).order_by(tables.batches.c.id.desc())).scalars().first()
    assert closed["last_batch_id"] == last - 1
    assert till.do("ledger.close", until_ns=until_ns, **WHY)["id"] == closed["id"]
    till.clock.advance(-NS_PER_HOUR)  # a clock that steps back opens nothing
    with till.engine.begin() as connection:
        post(connection, [late], {}, till.clock)
        row = connection.execute(select(tables.usage).order_by(tables.usage.c.batch_id.desc())).first()
        posted_ns = connection.execute(select(tables.batches.c.posted_ns).where(tables.batches.c.id == row.batch_id))
        assert posted_ns.scalar_one() >= until_ns
    assert late.settlement.closed.closed_ns < until_ns == row.closed_ns
    assert [one["id"] for one in msgspec.to_builtins(till.office.command("ledger.periods", {}))] == [closed["id"]]


def test_what_cannot_be_closed(till: Till) -> None:
    now_ns = till.clock.now_ns()
    assert till.refusal("ledger.close", until_ns=now_ns + 1) == (409, "period_not_over", "until")
    till.oldest_open = now_ns - 5
    assert till.refusal("ledger.close", until_ns=now_ns)[1] == "requests_open"
    assert till.do("ledger.close", until_ns=now_ns - 5)["id"] == 1
    assert till.refusal("ledger.close", until_ns=now_ns - 6) == (409, "period_closed", "until")


def test_verify_sees_a_period_that_was_changed_after_its_close(till: Till) -> None:
    till.clock.advance(10)
    till.do("ledger.close", until_ns=till.clock.now_ns(), **WHY)
    till.do("wallet.topup", tenant="acme", amount="1")

    def red() -> set[str]:
        with till.engine.connect() as connection:
            return {one.invariant for one in verify(connection, rate, TARIFFS) if not one.ok}

    assert red() == set()
    with till.engine.begin() as connection:
        before = connection.execute(select(tables.periods)).one()
        connection.execute(tables.periods.update().values(balances_hash=bytes(32)))
    assert red() == {"I13"}
    with till.engine.begin() as connection:
        connection.execute(
            tables.periods.update().values(balances_hash=before.balances_hash, until_ns=before.until_ns + 10**18)
        )
    assert red() == {"I13"}
    with till.engine.begin() as connection:
        connection.execute(tables.periods.update().values(until_ns=before.until_ns))


@pytest.mark.parametrize(
    ("why", "note"),
    [
        ({"actor": "mia"}, "(mia)"),
        ({"reason": " ", "actor": "mia"}, "(mia)"),
        ({"reason": "invoice 17", "actor": "mia"}, "invoice 17 (mia)"),
        ({"reason": "invoice 17"}, "invoice 17"),
        ({}, ""),
    ],
)
def test_a_note_says_what_was_given_and_nothing_else(till: Till, why: dict[str, str], note: str) -> None:
    batch_id = till.do("wallet.refund", tenant="acme", amount="1", **why)["batch"]
    with till.engine.connect() as connection:
        told = connection.execute(select(tables.batches.c.note).where(tables.batches.c.id == batch_id)).scalar_one()
    assert told == note
