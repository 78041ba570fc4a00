"""The same seeded sequence of settlements, duplicates, top-ups and corrections leaves the same books in SQLite and in
PostgreSQL: every row of every table, the batch hashes included."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import Engine, select
from tests.fakes.ledger import PRICE, TARIFFS, Requests, books

from steelyard import flow
from steelyard.kernel.clock import NS_PER_HOUR
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Position, Settlement
from steelyard.kernel.why import Tried, Weighed, Why, bytes_from_why
from steelyard.ledger.corrections import Correction, Period, post_correction
from steelyard.ledger.posting import post_topup
from steelyard.ledger.salt import ensure_secret
from steelyard.ledger.verify import verify
from steelyard.processes.snapshot import EPOCH, bump
from steelyard.rating.rate import rate
from steelyard.storage import tables
from steelyard.storage.database import bytewise

if TYPE_CHECKING:
    from tests.fakes.postgres import Server

STEPS = 60
TENANTS = ("acme", "beta", "Größe", "零售")
_OWN = ("writer",)  # a counter that PostgreSQL's writers have for themselves


def act(engine: Engine, seed: int) -> None:
    """Every step is a transaction of its own."""
    dice = Random(seed)
    requests = Requests()
    served: list[Settlement] = []
    for step in range(STEPS):
        requests.clock.advance(dice.randrange(NS_PER_HOUR))
        with engine.begin() as connection:
            bump(connection, EPOCH)
            if step == 0:
                ensure_secret(connection, lambda size: bytes(range(size)))
            match dice.randrange(8):
                case 0:
                    tenant_id = 1 + dice.randrange(len(TENANTS))
                    post_topup(connection, tenant_id, 1 + dice.randrange(10**12), f"Geld – 钱 {step}", requests.clock)
                case 1:
                    line = Correction(1, PRICE.subject, "CNY", dice.randrange(-1000, 1000), dice.randrange(1000))
                    period = Period(bytes([step]) * 32, step * 10, step * 10 + 10)
                    post_correction(connection, period, [line], {1: 10**9}, ("wrong price", "ops"), requests.clock)
                case _:
                    fresh = [serve(requests, dice) for _ in range(dice.randrange(40))]
                    again = dice.sample(served, min(3, len(served)))
                    marks = {f"w{step % 3}-1": Position(step, dice.randrange(10**9))}
                    flow.settle(connection, [*fresh, *again, *fresh[:2]], TARIFFS, marks, requests.clock)
                    served += fresh


def serve(requests: Requests, dice: Random) -> Settlement:
    """Some above their hold, some of nothing, some very large."""
    opened = requests.opened(1 + dice.randrange(len(TENANTS)), hold_nano=dice.choice([0, 50_000, 10**7]))
    why = dice.choice([b"", b"", bytes_from_why(Why("balanced", "default", (Weighed(1, 1), Weighed(2, 0, "open"))))])
    tried = dice.choice([(), (), (Tried("far", "server"),)])
    opened = msgspec.structs.replace(opened, request_id=dice.randbytes(16), why=why, tried=tried)
    some = Usage(
        dice.randrange(4000),
        dice.randrange(500),
        dice.randrange(900),
        10**9,
        7 * 10**7,
        dice.randrange(200),
        dice.randrange(300),
    )
    usage = dice.choice([Usage(), some, some])
    if dice.randrange(100) == 0:
        usage = Usage(output=2**40)
    return Settlement(opened, requests.closed(opened, usage))


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    with engine.connect() as connection:
        for table in tables.metadata.sorted_tables:
            key = bytewise(connection, list(table.primary_key))
            found[table.name] = [tuple(row) for row in connection.execute(select(table).order_by(*key))]
        assert all(finding.ok for finding in verify(connection, rate, TARIFFS))
    found["counters"] = [row for row in found["counters"] if row[0] not in _OWN]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_same_sequence_leaves_the_same_books(tmp_path: Path, postgres: "Server", seed: int) -> None:
    told = []
    with postgres.database() as url:
        for place in (tmp_path / "books.db", url):
            engine = books(place, TENANTS)
            act(engine, seed)
            told.append(contents(engine))
            engine.dispose()
        assert isinstance(place, DatabaseUrl)
    sqlite, postgresql = told
    assert len(sqlite["usage"]) > 100
    assert len(sqlite["batches"]) > STEPS // 2
    for name, rows in sqlite.items():
        assert postgresql[name] == rows, name
        assert [[type(one) for one in row] for row in postgresql[name]] == [[type(one) for one in row] for row in rows]
