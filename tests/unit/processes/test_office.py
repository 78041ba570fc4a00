"""The office's commands on their own, as the command line runs them when the platform is down."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from sqlalchemy import Engine

from steelyard.identity.keys import authenticate, is_operator
from steelyard.identity.store import live_callers
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.records import CallersKept, Snapshot
from steelyard.ledger.purse import Purse
from steelyard.processes.office import Office
from steelyard.processes.outcome import KeyChange
from steelyard.processes.snapshot import read_snapshot
from steelyard.storage.database import migrate, open_database

MODEL = {
    "name": "smollm2-135m-instruct",
    "upstream": "local",
    "address": "127.0.0.1:1",
    "upstream_model": "m",
    "context_tokens": 2048,
    "max_output_tokens": 1024,
    "default_max_tokens": 256,
}

pytestmark = pytest.mark.postgres


class Held:
    """A teller who has 300 nano set aside for everybody."""

    def held(self, tenant_id: int) -> int:
        return 300

    def newest_ns(self, tenant_id: int) -> int:
        return 0


@pytest.fixture
def engine(place: Path | DatabaseUrl) -> Iterator[Engine]:
    engine = open_database(place)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def office(engine: Engine) -> Office:
    office = Office(engine, ManualClock(), holds=Held())
    office.command("tenant.add", {"name": "acme"})
    return office


def _refusal(office: Office, op: str, **payload: object) -> tuple[int, str, str | None]:
    with pytest.raises(CallerError) as refused:
        office.command(op, payload)
    return refused.value.status, refused.value.code, refused.value.param


def test_a_tenant_comes_with_a_project_and_a_wallet(office: Office) -> None:
    outcome = office.execute("tenant.add", {"name": "北京 team-1", "currency": "USD"})
    assert outcome.reply["project"] == "default"
    assert outcome.purses == {outcome.reply["id"]: Purse(0)}
    assert outcome.snapshot is None, "workers need not know of who has no key"
    listed = office.command("tenant.list", {})
    assert [(one["name"], one["currency"], one["balance_nano"]) for one in listed] == [
        ("acme", "CNY", 0),
        ("北京 team-1", "USD", 0),
    ]


@pytest.mark.parametrize("name", ["", "a:b", " a", "a\n", "x" * 65, None, 7, "a\u202eb"])
def test_names_that_cannot_be(office: Office, name: object) -> None:
    status, _, param = _refusal(office, "tenant.add", name=name)
    assert (status, param) == (400, "name")


def test_a_second_tenant_of_that_name_is_a_conflict_and_leaves_no_trace(office: Office) -> None:
    assert _refusal(office, "tenant.add", name="acme") == (409, "already_exists", "name")
    assert len(office.command("tenant.list", {})) == 1


def test_currencies_are_known_ones(office: Office) -> None:
    assert _refusal(office, "tenant.add", name="b", currency="XXX")[0] == 400


def test_a_key_authenticates_until_it_is_revoked(office: Office, engine: Engine) -> None:
    added = office.execute("key.add", {"tenant": "acme", "name": "laptop"})
    made, (change,) = added.reply, added.keys
    assert made["key"].startswith("sk-sy-")
    assert made["key"] not in str(office.command("key.list", {"tenant": "acme"}))
    with engine.connect() as connection:
        known = dict(live_callers(connection))
    assert known == {change.digest: change.caller}, "what is told is what books that start anew read"
    snapshot = Snapshot(1, CallersKept(known), frozenset(), {}, {}, {})
    assert authenticate(snapshot, f"Bearer {made['key']}").tenant == "acme"
    outcome = office.execute("key.revoke", {"id": made["id"]})
    assert outcome.reply["revoked_at"] is not None
    assert outcome.keys == (KeyChange(made["id"]),) and outcome.snapshot is None
    with engine.connect() as connection:
        assert not dict(live_callers(connection))
    assert office.command("key.revoke", {"id": made["id"]})["revoked_at"] == outcome.reply["revoked_at"]


def test_an_operator_key_is_no_customer_key(office: Office, engine: Engine) -> None:
    made = office.command("operator.add", {"name": "ops"})
    with engine.connect() as connection:
        snapshot = read_snapshot(connection)
    assert made["key"].startswith("sk-sy-op-") and made["operator"]
    assert is_operator(snapshot, made["key"]) and not is_operator(snapshot, made["key"][:-1])
    with pytest.raises(CallerError):
        authenticate(snapshot, f"Bearer {made['key']}")


def test_keys_of_what_does_not_exist(office: Office) -> None:
    assert _refusal(office, "key.add", tenant="nobody", name="k") == (404, "not_found", "tenant")
    assert _refusal(office, "key.add", tenant="acme", project="p", name="k") == (404, "not_found", "project")
    assert _refusal(office, "key.revoke", id=99) == (404, "not_found", "id")
    assert _refusal(office, "key.revoke", id="1")[0] == 400
    assert _refusal(office, "key.revoke", id=2**80)[0] == 400


def test_a_second_project(office: Office) -> None:
    office.command("project.add", {"tenant": "acme", "name": "lab"})
    assert office.command("key.add", {"tenant": "acme", "project": "lab", "name": "k"})["project"] == "lab"
    assert _refusal(office, "project.add", tenant="acme", name="lab")[0] == 409


def test_a_topup_adds_exactly(office: Office) -> None:
    outcome = office.execute("wallet.topup", {"tenant": "acme", "amount": "12.500000001", "note": "bank"})
    assert outcome.purses == {1: Purse(12_500_000_001)}
    assert outcome.reply["balance_nano"] == 12_500_000_001
    shown = office.command("wallet.show", {"tenant": "acme"})
    assert (shown["held_nano"], shown["available_nano"]) == (300, 12_500_000_001 - 300)
    assert office.command("verify", {})["ok"]


@pytest.mark.parametrize("amount", ["0", "-1", "1e400", "0.0000000001", "nan", "", "12,5", 12, None, "99999999999"])
def test_amounts_that_cannot_be(office: Office, amount: object) -> None:
    status, _, param = _refusal(office, "wallet.topup", tenant="acme", amount=amount)
    assert (status, param) == (400, "amount")


def test_a_repeated_topup_answers_the_first_batch(office: Office) -> None:
    payload = {"tenant": "acme", "amount": "1", "idempotency_key": "a"}
    first = office.execute("wallet.topup", payload)
    again = office.execute("wallet.topup", payload)
    assert again.reply["batch"] == first.reply["batch"] and again.purses == {}
    assert again.reply["balance_nano"] == 10**9
    other = office.command("wallet.topup", payload | {"idempotency_key": "b"})
    assert other["balance_nano"] == 2 * 10**9
    refused = _refusal(office, "wallet.topup", tenant="acme", amount="2", idempotency_key="a")
    assert refused == (409, "idempotency_conflict", "idempotency_key")


def test_prices_are_loaded_once(office: Office) -> None:
    text = files("steelyard.catalog").joinpath("demo_prices.toml").read_text(encoding="utf-8")
    first = office.execute("prices.load", {"text": text})
    assert first.reply["inserted"] and first.snapshot is not None
    again = office.execute("prices.load", {"text": text})
    assert (again.reply["inserted"], again.reply["unchanged"]) == ([], len(first.reply["inserted"]))
    assert again.snapshot is None
    assert {one["book"] for one in office.command("prices.list", {})} == {"price", "cost"}
    assert _refusal(office, "prices.load", text="[[price]]")[0] == 400


def test_registering_a_model_again_pushes_nothing(office: Office) -> None:
    first = office.execute("model.register", dict(MODEL))
    assert first.snapshot is not None and MODEL["name"] in first.snapshot.models
    assert office.execute("model.register", dict(MODEL)).snapshot is None
    moved = office.execute("model.register", {**MODEL, "address": "127.0.0.1:2"})
    assert moved.snapshot is not None
    assert moved.snapshot.models[str(MODEL["name"])].offers[0].address == "127.0.0.1:2"
    assert _refusal(office, "model.register", name="x")[0] == 400


@pytest.mark.parametrize("request_id", ["req_00", "nonsense", None, "req_" + "0" * 32, b"short", 5])
def test_a_receipt_that_is_not_there(office: Office, request_id: object) -> None:
    assert _refusal(office, "receipt", request_id=request_id)[:2] == (404, "receipt_not_found")
