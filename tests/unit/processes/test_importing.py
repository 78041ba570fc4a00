"""The office's command "import" on both databases: once, dry or not, and one refused step leaves the others alone."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.processes.office import Office
from steelyard.storage.database import migrate, open_database

SECRET = "sk-" + "a1B2" * 12
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
PRICES = """
[[price]]
model = "m"
currency = "USD"
effective_from = {}T00:00:00Z
per = "1M tokens"
input = "1"
cached_input = "1"
output = "{}"
source = "s"
"""
OFFER = {
    "name": "m", "upstream": "u", "address": "127.0.0.1:1", "upstream_model": "m", "context_tokens": 9,
    "max_output_tokens": 9, "default_max_tokens": 9, "kind": "openai",
}  # fmt: skip
STEPS = [
    ("tenant", {"id": "1", "name": "alice", "currency": "USD"}),
    ("key", {"id": "7", "tenant": "1", "name": "laptop", "hash": DIGEST, "shown": "sk-a1B2…"}),
    ("balance", {"tenant": "1", "amount": "2.5", "reason": "opening balance"}),
    ("limits", {"tenant": "1", "key": "7", "rpm": 60, "budget": "3", "every": "month"}),
    ("limits", {"tenant": "1", "tpm": 1000}),
    ("prices", {"text": PRICES.format("2026-01-01", "2")}),
    ("offer", OFFER),
    ("book", {"vendor": "deepseek", "upstream": "deepseek-7", "models": ["deepseek-flash"]}),
    ("route.offer", {"model": "m", "upstream": "u", "rpm": 60}),
    ("route.alias", {"name": "also-m", "model": "m"}),
    ("route.set", {"model": "m", "policy": "fastest"}),
]


@pytest.fixture
def engine(place: Path | DatabaseUrl) -> Iterator[Engine]:
    engine = open_database(place)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def office(engine: Engine) -> Office:
    return Office(engine, ManualClock())


def asked(*steps: tuple[str, dict[str, Any]], dry: bool = False, source: str = "site") -> dict[str, Any]:
    return {"source": source, "dry": dry, "steps": [{"op": op, "payload": payload} for op, payload in steps]}


def states(office: Office, *steps: tuple[str, dict[str, Any]], **how: Any) -> list[str]:
    return [one["state"] for one in office.command("import", asked(*steps, **how))]


@pytest.mark.postgres
def test_each_step_is_made_once_and_the_books_agree(office: Office) -> None:
    assert states(office, *STEPS, dry=True) == ["created"] * len(STEPS)
    assert office.command("tenant.list", {}) == [], "a dry run takes all of it back"
    outcome = office.execute("import", asked(*STEPS))
    assert [one["state"] for one in outcome.reply] == ["created"] * len(STEPS)
    assert outcome.snapshot is not None
    (key,) = outcome.keys
    assert key.digest == hashlib.sha256(SECRET.encode()).digest()
    assert key.caller is not None and (key.caller.key_id, key.caller.tenant) == (key.key_id, "alice")
    (purse,) = outcome.purses.values()
    assert purse.wallet_nano == 2_500_000_000
    assert {seed.limit.kind.value for seed in outcome.limited} == {"budget", "rpm", "tpm"}
    again = office.execute("import", asked(*STEPS))
    assert again.snapshot is None and not again.keys, "nothing is new"
    assert states(office, *STEPS) == ["unchanged"] * len(STEPS)
    assert office.command("verify", {})["ok"]
    assert {cost.model for cost in outcome.snapshot.costs["deepseek-7"]} == {"deepseek-flash"}
    routes = outcome.snapshot.routes
    assert (routes.aliases, routes.models["m"].policy) == ({"also-m": "m"}, "fastest")
    assert outcome.snapshot.models["m"].offers[0].rpm == 60
    assert states(office, ("route.set", {"model": "m", "policy": "cheapest"})) == ["changed"]


def test_another_site_has_ids_of_its_own(office: Office) -> None:
    office.command("import", asked(*STEPS))
    assert states(office, ("tenant", {"id": "1", "name": "bob", "currency": "USD"}), source="other") == ["created"]
    assert states(office, STEPS[1], source="other") == ["refused"], "the same key for somebody else"


@pytest.mark.postgres
def test_what_is_refused_leaves_the_others_alone(office: Office) -> None:
    office.command("tenant.add", {"name": "taken"})
    steps = (
        ("tenant", {"id": "1", "name": "taken", "currency": "USD"}),
        STEPS[1],
        ("tenant", {"id": "2", "name": "free", "currency": "USD"}),
        ("balance", {"tenant": "2", "amount": "-1", "reason": "x"}),
        ("offer", {"name": "m"}),
        ("prices", {"text": "nonsense"}),
        ("sing", {}),
        ("key", {"id": "8", "tenant": "2", "name": "k", "hash": "12", "shown": "s"}),
    )
    assert states(office, *steps) == ["refused", "refused", "created"] + ["refused"] * 5
    assert [one["name"] for one in office.command("tenant.list", {})] == ["taken", "free"]


def test_a_key_that_was_revoked_here_stays_revoked(office: Office) -> None:
    office.command("import", asked(*STEPS))
    (key,) = office.command("key.list", {})
    office.command("key.revoke", {"id": key["id"]})
    assert states(office, STEPS[1]) == ["unchanged"]
    assert office.command("key.list", {})[0]["revoked_at"] is not None


def test_prices_in_force_with_the_same_numbers_are_no_news(office: Office) -> None:
    office.command("import", asked(("prices", {"text": PRICES.format("2026-01-01", "2")})))
    assert states(office, ("prices", {"text": PRICES.format("2026-02-01", "2")})) == ["unchanged"]
    assert states(office, ("prices", {"text": PRICES.format("2026-02-01", "3")})) == ["created"]
    assert len(office.command("prices.list", {})) == 2


def test_what_cannot_be_asked(office: Office) -> None:
    for payload in ({}, {"source": "a:b", "steps": []}, {"source": "s", "steps": [{"op": 7}]}):
        with pytest.raises(CallerError) as refused:
            office.command("import", payload)
        assert refused.value.status == 400
