"""The comparison of a proof: each kind of wrong turns its own number, and only that."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.fakes.ledger import COST, PRICE, Requests, books

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Settlement
from steelyard.ledger.posting import post
from steelyard.processes.customers import Arrival
from steelyard.processes.score import Score, score
from steelyard.rating.rate import rate

CLEAN = Score(3, 1, 2, 1, 0, 0, 0, 0, 0)


class Proof:
    """Three requests: one whole, one that died exact, one that died a read short. Each delivered 30, 20 and 10."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.arrivals: list[Arrival] = []
        requests = Requests()
        self.rated = []
        for output, end, short, arrived in (
            (30, End.COMPLETE, False, 30),
            (20, End.WORKER_DIED, False, 20),
            (9, End.COMPLETE, True, 10),
        ):
            opened = requests.opened()
            closed = Closed(opened.request_id, opened.opened_ns + 5, Usage(1, 0, output), end, 1, 2, short)
            self.rated.append(rate(Settlement(opened, closed), PRICE, COST))
            name = text_from_id(opened.request_id)
            self.arrivals.append(Arrival("stream", "acme", True, 200, name, arrived, whole=end is End.COMPLETE))
        with engine.begin() as connection:
            post(connection, self.rated, {}, ManualClock())

    def score(self) -> Score:
        with self.engine.connect() as connection:
            return score(connection, self.arrivals)

    def damage(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            assert connection.exec_driver_sql(statement).rowcount > 0


@pytest.fixture
def proof(tmp_path: Path):
    engine = books(tmp_path / "books.db")
    yield Proof(engine)
    engine.dispose()


def test_what_agrees_is_proved(proof: Proof) -> None:
    assert proof.score() == CLEAN
    assert proof.score().ok


def expect(proof: Proof, **numbers: int) -> None:
    fields = {name: getattr(CLEAN, name) for name in CLEAN.__struct_fields__}
    found = proof.score()
    assert found == Score(**fields | numbers)
    assert not found.ok


def test_a_token_that_did_not_arrive_is_over_billed(proof: Proof) -> None:
    proof.arrivals[1] = replace(proof.arrivals[1], tokens=19)
    expect(proof, exact=1, over_billed=1)


def test_more_than_the_cap_is_over_billed_though_it_arrived(proof: Proof) -> None:
    proof.damage("UPDATE usage SET max_tokens = 19 WHERE output = 20")
    expect(proof, exact=1, over_billed=1)


def test_a_key_charged_again_is_double(proof: Proof) -> None:
    proof.arrivals[:2] = [replace(one, key="k") for one in proof.arrivals[:2]]
    expect(proof, double=1)


def test_what_a_repeat_brought_counts_beside_what_was_cut(proof: Proof) -> None:
    proof.arrivals.insert(0, replace(proof.arrivals[0], tokens=3, whole=False, key="k"))
    proof.arrivals.append(replace(proof.arrivals[1], tokens=2, whole=False, key="k"))
    assert proof.score() == CLEAN


def test_more_than_a_budget_is_overspent(proof: Proof) -> None:
    charged = sum(one.charge_nano for one in proof.rated)
    with proof.engine.connect() as connection:
        assert score(connection, proof.arrivals, {"acme": charged, "nobody": 0}).wallets_overspent == 0
        assert score(connection, proof.arrivals, {"acme": charged - 1}).wallets_overspent == 1


def test_a_row_no_customer_can_name_must_be_worth_nothing(proof: Proof) -> None:
    del proof.arrivals[1]
    expect(proof, exact=1, over_billed=1)


def test_a_token_missing_without_a_flag_is_lost(proof: Proof) -> None:
    proof.arrivals[1] = replace(proof.arrivals[1], tokens=21)
    expect(proof, exact=1, lost=1)


def test_words_out_of_order_are_lost(proof: Proof) -> None:
    proof.arrivals[0] = replace(proof.arrivals[0], in_order=False)
    expect(proof, exact=1, lost=1)


def test_an_answer_without_a_row_is_lost(proof: Proof) -> None:
    proof.arrivals.append(Arrival("stream", "acme", True, 200, "req_" + "0" * 32, 5))
    expect(proof, requests=4, lost=1)


def test_the_engines_own_usage_counts_where_words_cannot(proof: Proof) -> None:
    proof.arrivals[0] = replace(proof.arrivals[0], tokens=None, told=30)
    assert proof.score().ok
    proof.arrivals[0] = replace(proof.arrivals[0], told=29)
    expect(proof, exact=1, over_billed=1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rollups SET requests = requests + 1 WHERE grain = 'day'",
        "UPDATE batches SET requests = requests + 1 WHERE kind = 'usage'",
    ],
)
def test_what_a_roll_up_or_batch_counts_above_the_rows_is_double(proof: Proof, statement: str) -> None:
    proof.damage(statement)
    expect(proof, double=1)


def test_a_wallet_below_what_was_paid_in_is_overspent(proof: Proof) -> None:
    proof.damage("UPDATE accounts SET credit_nano = 1 WHERE name = 'wallet:acme'")
    expect(proof, wallets_overspent=1)


def test_free_credit_counts_as_paid_in_and_ends_where_it_does(proof: Proof) -> None:
    charged = sum(one.charge_nano for one in proof.rated)
    given = "INSERT INTO accounts (name, kind, currency, tenant_id, debit_nano, credit_nano) VALUES"
    proof.damage(f"{given} ('grant:acme#1', 'grant', 'CNY', 1, {charged - 1}, {charged - 1})")
    proof.damage("UPDATE accounts SET credit_nano = 1, debit_nano = 1 WHERE name = 'wallet:acme'")
    assert proof.score().ok
    proof.damage(f"UPDATE accounts SET credit_nano = {charged - 2} WHERE name = 'grant:acme#1'")
    expect(proof, wallets_overspent=1)


def test_a_refused_customer_with_money(proof: Proof) -> None:
    proof.arrivals.append(Arrival("tiny", "beta", False, 402))
    assert proof.score().ok
    proof.arrivals.append(Arrival("stream", "acme", True, 402))
    expect(proof, solvent_refusals=1)
    proof.arrivals.append(Arrival("stream", "acme", True, 429, held=True))
    expect(proof, solvent_refusals=2)


def test_nothing_proves_nothing() -> None:
    assert not Score(0, 0, 0, 0, 0, 0, 0, 0, 0).ok
