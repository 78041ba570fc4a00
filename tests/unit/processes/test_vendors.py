"""Vendors in the office: offers, costs, prices and a key in one transaction, and the same again changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from steelyard.catalog.vendor_books import vendor_names
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import CallerError
from steelyard.processes.office import Office
from steelyard.processes.snapshot import read_snapshot
from steelyard.storage.database import migrate, open_database

TOKEN = "gAAAAABsealed"
RATE = """
[[rate]]
from = "USD"
to = "CNY"
rate = "7.1"
effective_from = 2026-01-01T00:00:00Z
source = "the bank"
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(tmp_path / "steelyard.db")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def office(engine: Engine) -> Office:
    return Office(engine, ManualClock(1_795_780_000 * 10**9))


def test_a_vendor_is_added_once_however_often(office: Office, engine: Engine) -> None:
    asked = {"vendor": "anthropic", "markup": "20", "token": TOKEN, "shown": "…1234"}
    made = office.execute("vendor.add", asked)
    assert made.snapshot is not None and made.reply["inserted"] == 20 and len(made.reply["models"]) == 10
    again = office.execute("vendor.add", {"vendor": "anthropic", "markup": "20"})
    assert again.snapshot is None and (again.reply["inserted"], again.reply["unchanged"]) == (0, 20)
    with engine.connect() as connection:
        snapshot = read_snapshot(connection)
    (offer,) = snapshot.models["claude-sonnet-5-5"].offers
    assert (offer.upstream, offer.kind, offer.context_tokens) == ("anthropic", "anthropic", 1_000_000)
    assert snapshot.credentials == {"anthropic": TOKEN}
    (price,) = snapshot.prices["claude-sonnet-5-5"]
    assert {str(line.meter): line.text for line in price.lines}["cache_write"] == "3"


def test_models_upstream_and_address_may_be_our_own(office: Office, engine: Engine) -> None:
    asked = {"vendor": "openai", "models": {"gpt-6.1-sol": "big"}, "upstream": "oai", "address": "https://p.example/v1"}
    assert office.command("vendor.add", asked)["models"] == ["big"]
    with engine.connect() as connection:
        snapshot = read_snapshot(connection)
    (offer,) = snapshot.models["big"].offers
    assert (offer.upstream, offer.address, offer.upstream_model) == ("oai", "https://p.example/v1", "gpt-6.1-sol")
    assert {one.model for one in snapshot.costs["oai"]} >= {"gpt-6.1-sol", "gpt-4.1"}
    assert not snapshot.prices


def test_prices_in_another_currency_need_a_rate(office: Office, engine: Engine) -> None:
    asked = {"vendor": "openai", "models": {"gpt-4.1": "gpt-4.1"}, "markup": "10", "currency": "CNY"}
    with pytest.raises(CallerError) as refused:
        office.command("vendor.add", asked)
    assert refused.value.code == "rate_missing"
    with engine.connect() as connection:
        assert not read_snapshot(connection).models  # one transaction: nothing of it stays
    rate = (
        '[[rate]]\nfrom = "USD"\nto = "CNY"\nrate = "7.1"\neffective_from = 2026-01-01T00:00:00Z\nsource = "the bank"\n'
    )
    office.command("prices.load", {"text": rate})
    office.command("vendor.add", asked)
    with engine.connect() as connection:
        (price,) = read_snapshot(connection).prices["gpt-4.1"]
    assert (price.currency, price.lines[0].text) == ("CNY", "15.62")


def test_a_removed_vendor_offers_nothing_and_has_no_key_but_its_costs_stay(office: Office, engine: Engine) -> None:
    office.command("vendor.add", {"vendor": "anthropic", "token": TOKEN, "shown": "set"})
    assert office.command("vendor.remove", {"upstream": "anthropic"}) == {"offers": 10, "key": True}
    gone = office.execute("vendor.remove", {"upstream": "anthropic"})
    assert gone.reply == {"offers": 0, "key": False} and gone.snapshot is None
    with engine.connect() as connection:
        snapshot = read_snapshot(connection)
    assert not snapshot.models and not snapshot.credentials and snapshot.costs["anthropic"]


def test_what_is_not_known_is_refused_by_name(office: Office) -> None:
    for payload, code, param in (
        ({"vendor": "nobody"}, "unknown_vendor", None),
        ({"vendor": "openai", "models": {"gpt-0": "gpt-0"}}, "unknown_model", None),
        ({"vendor": "openai", "markup": "much"}, "invalid_request", "percent"),
        ({"vendor": "openai", "token": "sk-in-the-clear", "shown": "set"}, "invalid_request", "token"),
        ({"vendor": 1}, "invalid_request", None),
    ):
        with pytest.raises(CallerError) as refused:
            office.command("vendor.add", payload)
        assert (refused.value.code, refused.value.param) == (code, param)
        assert "sk-in-the-clear" not in refused.value.message


def test_every_shipped_book_can_be_added(office: Office) -> None:
    for name in vendor_names():
        made = office.command("vendor.add", {"vendor": name, "markup": "20"})
        assert made["inserted"] > len(made["models"]), name
