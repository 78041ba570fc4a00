"""Commands without a platform: what a crash left in the journals is settled before money leaves or a period closes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.fakes.ledger import TOPUP_NANO, Requests, books

from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import CallerError, StartError
from steelyard.kernel.quantities import Usage
from steelyard.ledger.purses import wallet_balances
from steelyard.metering.journal import Journal
from steelyard.metering.slots import Slots
from steelyard.processes.by_hand import carry_out
from steelyard.processes.only_writer import only_writer
from steelyard.storage import tables
from steelyard.storage.database import open_database

USED_NANO = 1_500_000_000  # of the 5 CNY in the wallet
REST_NANO = TOPUP_NANO - USED_NANO
ALL, REST = {"tenant": "acme", "amount": "5"}, {"tenant": "acme", "amount": "3.5"}


class Crashed:
    """Books whose worker closed a request that costs 1.5 CNY; nobody posted it."""

    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.data.prepare()
        self.clock = ManualClock(1_800_000_000 * NS_PER_S)
        books(self.data.database, clock=self.clock).dispose()
        self.journal = Journal.create(self.data.journals / "w0-1", segment_bytes=1 << 16)
        Slots.create(self.data.journals / "w0-1" / "slots", 4).close()
        self.requests = Requests(self.clock)
        self.opened = self.requests.opened(1, hold_nano=2 * USED_NANO)
        self.journal.append(self.opened)
        self.journal.append(self.requests.closed(self.opened, Usage(output=1_000_000)))
        self.journal.sync()

    def do(self, op: str, **payload: Any) -> Any:
        return carry_out(self.data, self.clock, op, payload)

    def refusal(self, op: str, **payload: Any) -> CallerError:
        with pytest.raises(CallerError) as refused:
            self.do(op, **payload)
        return refused.value

    def books(self) -> tuple[int, dict[str, int]]:
        """The wallet of acme, and the sums of all facts."""
        engine = open_database(self.data.database, readonly=True)
        with engine.connect() as connection:
            sums: dict[str, int] = {}
            for row in connection.execute(select(tables.entries)):
                sums[row.fact] = sums.get(row.fact, 0) + row.amount_nano
            wallet = wallet_balances(connection)[1]
        engine.dispose()
        return wallet, sums

    def sound(self) -> None:
        assert [one for one in self.do("verify")["findings"] if not one["ok"]] == []


@pytest.fixture
def crashed(tmp_path: Path) -> Iterator[Crashed]:
    crashed = Crashed(tmp_path)
    yield crashed
    crashed.journal.close()


@pytest.mark.parametrize(
    ("op", "payload"),
    [
        ("wallet.refund", ALL),
        ("wallet.transfer", ALL | {"to": "beta"}),
        ("wallet.adjust", {"tenant": "acme", "amount": "-5", "reason": "wrong"}),
        ("ledger.reverse", {"batch": 1, "reason": "bounced"}),
    ],
)
def test_money_that_a_crash_left_unposted_is_not_paid_out(crashed: Crashed, op: str, payload: dict[str, Any]) -> None:
    crashed.journal.close()
    refused = crashed.refusal(op, **payload)
    assert (refused.status, refused.code) == (409, "wallet_short")
    assert "3.5" in refused.message
    wallet, sums = crashed.books()
    assert (wallet, sums["charge"], sums.get("overrun", 0)) == (REST_NANO, USED_NANO, 0)
    if "amount" in payload:
        less = payload | {"amount": payload["amount"].replace("5", "3.5")}
        assert crashed.do(op, **less)["balance_nano"] == 0
    crashed.sound()


def test_what_a_dead_worker_was_doing_is_settled_at_what_had_left(crashed: Crashed) -> None:
    running = crashed.requests.opened(1, hold_nano=REST_NANO)
    crashed.journal.append(running)
    crashed.journal.close()
    assert crashed.do("wallet.refund", **REST)["balance_nano"] == 0  # nothing had left for the second request
    engine = open_database(crashed.data.database, readonly=True)
    with engine.connect() as connection:
        usage = {row.request_id: row.end for row in connection.execute(select(tables.usage))}
    engine.dispose()
    assert usage == {crashed.opened.request_id: "complete", running.request_id: "worker_died"}
    assert "overrun" not in crashed.books()[1]
    crashed.sound()


def test_a_request_is_given_back_that_nobody_had_posted(crashed: Crashed) -> None:
    crashed.journal.close()
    found = crashed.do("wallet.credit", request_id=crashed.opened.request_id, reason="was cut")
    assert (found["amount_nano"], found["balance_nano"]) == (USED_NANO, TOPUP_NANO)
    crashed.sound()


def test_a_period_closes_with_what_a_crash_left(crashed: Crashed) -> None:
    crashed.journal.close()
    crashed.clock.advance(60 * NS_PER_S)
    until_ns = crashed.clock.now_ns()
    crashed.do("ledger.close", until_ns=until_ns, reason="month", actor="mia")
    engine = open_database(crashed.data.database, readonly=True)
    with engine.connect() as connection:
        closed_ns = connection.execute(select(tables.usage.c.closed_ns)).scalar_one()
    engine.dispose()
    assert closed_ns < until_ns, "it counts in the period in which it was served"
    crashed.sound()


@pytest.mark.parametrize(
    ("op", "payload"), [("wallet.refund", REST), ("ledger.close", {"until_ns": 1_800_000_000 * NS_PER_S})]
)
def test_nothing_is_taken_beside_a_worker_that_still_runs(crashed: Crashed, op: str, payload: dict[str, Any]) -> None:
    crashed.journal.append(crashed.requests.opened(1, hold_nano=REST_NANO))
    crashed.journal.sync()
    refused = crashed.refusal(op, **payload)
    assert (refused.status, refused.code) == (409, "requests_open")
    assert "open requests: 1" in refused.message
    assert "refund" not in crashed.books()[1]
    assert crashed.do("wallet.topup", tenant="acme", amount="1")["balance_nano"] == REST_NANO + 10**9


def test_books_that_still_write_are_not_written_beside(crashed: Crashed) -> None:
    with only_writer(crashed.data), pytest.raises(StartError, match="Another books process"):
        crashed.do("wallet.refund", **REST)
