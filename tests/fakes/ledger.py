"""Rated requests and a database with tenants, prices and money, for every test around the books."""

import copy
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, insert, make_url

from steelyard.identity.store import add_tenant
from steelyard.kernel.clock import NS_PER_HOUR, ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.ids import Ids
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.settled import Closed, End, Opened, Rated, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.ledger.leases import Pools
from steelyard.ledger.posting import open_wallet, post_topup
from steelyard.ledger.shares import Share
from steelyard.rating.rate import rate
from steelyard.storage import tables
from steelyard.storage.database import migrate, open_database
from steelyard.storage.postgres import DRIVER

MODEL = "small"
UPSTREAM = "local"
PRICE = Tariff(
    1,
    MODEL,
    "CNY",
    0,
    (
        TariffLine(Meter.INPUT, "0.5", 500_000, 1),
        TariffLine(Meter.CACHED_INPUT, "0.1", 100_000, 1),
        TariffLine(Meter.OUTPUT, "1.5", 1_500_000, 1),
    ),
)
COST = Tariff(
    2,
    UPSTREAM,
    "CNY",
    0,
    (
        TariffLine(Meter.CPU, "0.2", 200_000_000_000, NS_PER_HOUR),
        TariffLine(Meter.ENERGY, "0.8", 800_000_000_000, 3_600_000_000_000),
    ),
    watts_milli=10_000,
)
TARIFFS = {1: PRICE, 2: COST}
TOPUP_NANO = 5_000_000_000


def books(
    place: Path | DatabaseUrl, tenants: Sequence[str] = ("acme", "beta"), clock: ManualClock | None = None
) -> Engine:
    """A migrated database with these tenants (ids from 1), the two tariffs and 5 CNY in every wallet."""
    clock = clock or ManualClock()
    engine = open_database(place)
    migrate(engine)
    with engine.begin() as connection:
        put_tariffs(connection)
        for name in tenants:
            tenant = add_tenant(connection, name, "CNY", clock)
            open_wallet(connection, tenant.id, tenant.name, tenant.currency)
            post_topup(connection, tenant.id, TOPUP_NANO, "first money", clock)
    return engine


def outside(place: Path | DatabaseUrl) -> Engine:
    """A way into books that another writer has: what a hand at the database sees and may damage."""
    if isinstance(place, Path):
        return create_engine("sqlite://", creator=lambda: sqlite3.connect(place))
    return create_engine(make_url(place.text).set(drivername=DRIVER))


def put_tariffs(connection: Connection) -> None:
    import msgspec

    for book, tariff in (("price", PRICE), ("cost", COST)):
        connection.execute(
            insert(tables.tariffs).values(
                id=tariff.id,
                book=book,
                subject=tariff.subject,
                currency=tariff.currency,
                effective_from_ns=0,
                loaded_ns=0,
                source="test",
                watts_milli=tariff.watts_milli,
                lines=msgspec.json.encode(tariff.lines).decode(),
            )
        )
    if connection.dialect.name == "postgresql":  # the next version gets an id behind these
        connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('tariffs', 'id'), 2)")


class Requests:
    """Makes opened and closed requests, one after the other."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.ids = Ids(self.clock)

    def opened(self, tenant_id: int = 1, hold_nano: int = 1_000_000, model: str = MODEL) -> Opened:
        return Opened(
            request_id=self.ids.next(),
            opened_ns=self.clock.now_ns(),
            slot=0,
            tenant_id=tenant_id,
            project_id=tenant_id,
            key_id=1,
            model=model,
            upstream=UPSTREAM,
            price_id=1,
            cost_id=2,
            currency="CNY",
            hold_nano=hold_nano,
            max_tokens=100,
            sequences=1,
            stream=True,
        )

    def closed(self, opened: Opened, usage: Usage | None = None) -> Closed:
        usage = usage or Usage(100, 20, 30, 5_000_000_000, 50_000_000)
        return Closed(opened.request_id, self.clock.now_ns() + 5, usage, str(End.COMPLETE), 1000, 2000)

    def rated(self, tenant_id: int = 1, hold_nano: int = 1_000_000, usage: Usage | None = None) -> Rated:
        opened = self.opened(tenant_id, hold_nano)
        return rate(Settlement(opened, self.closed(opened, usage)), PRICE, COST)


def shares_of(pools: Pools, tenant_id: int) -> tuple[Share, ...]:
    """What a worker may still let in of a tenant's limits: what would go back if nobody asked any more."""
    idle = copy.deepcopy(pools).idle(INT64_MAX)
    return next((shares for of_tenant, _, shares in idle if of_tenant == tenant_id), ())
