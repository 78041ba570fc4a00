"""The admin API over the office and a real database: who gets in, what is refused, and that the document is true."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from sqlalchemy import Connection, Engine
from starlette.applications import Starlette
from tests.fakes.ledger import MODEL, Requests, books

from steelyard.gateway.admin import admin_routes
from steelyard.gateway.operations import OPERATIONS, PREFIX
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.records import Snapshot
from steelyard.ledger.posting import post
from steelyard.processes.office import Office
from steelyard.processes.snapshot import read_snapshot
from steelyard.storage.database import open_database


class House:
    """The admin API's house, in one process."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.engine: Engine = books(path, clock=self.clock)
        self.reader = open_database(path, readonly=True)
        self.office = Office(self.engine, self.clock)
        self.operator = self.office.command("operator.add", {"name": "root"})["key"]
        self.customer = self.office.command("key.add", {"tenant": "acme", "name": "k"})["key"]

    @property
    def snapshot(self) -> Snapshot:
        with self.engine.connect() as connection:
            return read_snapshot(connection)

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        return {"epoch": 7} if op == "status" else self.office.command(op, payload)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self.reader.connect() as connection:
            yield connection

    def serve_one(self) -> str:
        rated = Requests(self.clock).rated()
        with self.engine.begin() as connection:
            post(connection, [rated], {}, self.clock)
        return text_from_id(rated.settlement.opened.request_id)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "steelyard.db")
    yield house
    house.engine.dispose()
    house.reader.dispose()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        assert set(self.body) == {"error"}
        assert set(self.body["error"]) == {"message", "type", "param", "code"}
        return dict(self.body["error"])


async def send(
    house: House, method: str, path: str, body: object = None, *, key: str | None = "", **headers: str
) -> Answer:
    """One request; `key` "" is the operator's, None is none."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["authorization"] = f"Bearer {key or house.operator}"
    scope = {
        "type": "http",
        "method": method,
        "path": PREFIX + path,
        "raw_path": (PREFIX + path).encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def take(message: dict[str, Any]) -> None:
        said.append(message)

    await Starlette(routes=admin_routes(house))(scope, receive, take)  # type: ignore[arg-type]
    answered = {str(name, "latin-1"): str(value, "latin-1") for name, value in said[0]["headers"]}
    text = b"".join(message.get("body", b"") for message in said[1:])
    return Answer(said[0]["status"], answered, json.loads(text) if text.startswith((b"{", b"[")) else text)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
async def test_only_an_operator_gets_in(house: House, operation: Any) -> None:
    path = operation.path.removeprefix(PREFIX).replace("{id}", "1").replace("{tenant}", "acme")
    for key in (None, house.customer, "sk-sy-op-nonsense"):
        answer = await send(house, operation.method, path, key=key)
        assert answer.status == 401
        assert answer.error["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_revoked_operator_is_out(house: House) -> None:
    made = await send(house, "POST", "/operators", {"name": "second"})
    assert (await send(house, "GET", "/tenants", key=made.body["key"])).status == 200
    assert (await send(house, "DELETE", f"/keys/{made.body['id']}")).status == 200
    assert (await send(house, "GET", "/tenants", key=made.body["key"])).status == 401


async def test_a_tenant_from_nothing_to_a_wallet(house: House) -> None:
    made = await send(house, "POST", "/tenants", {"name": "gamma", "currency": "USD"})
    assert (made.status, made.body["currency"]) == (201, "USD")
    key = await send(house, "POST", "/keys", {"tenant": "gamma", "name": "backend"})
    assert key.status == 201
    assert key.body["key"].startswith("sk-sy-")
    listed = await send(house, "GET", "/keys?tenant=gamma")
    assert [one["name"] for one in listed.body] == ["backend"]
    assert "key" not in listed.body[0]
    topped = await send(house, "POST", "/wallets/gamma/topups", {"amount": "12.50", "note": "invoice 1"})
    assert (topped.status, topped.body["balance_nano"]) == (201, 12_500_000_000)
    shown = await send(house, "GET", "/wallets/gamma")
    assert (shown.body["available_nano"], shown.body["available"]) == (12_500_000_000, "12.50")


async def test_limits_are_set_listed_and_lifted_in_the_operators_name(house: House) -> None:
    made = await send(
        house, "POST", "/limits", {"tenant": "acme", "rpm": 60, "budget": "20.00", "zone": "Asia/Shanghai"}
    )
    assert made.status == 201
    assert {row["actor"] for row in made.body} == {"root"}
    listed = await send(house, "GET", "/limits?tenant=acme")
    assert [(row["kind"], row.get("amount")) for row in listed.body] == [("budget", "20.00"), ("rpm", 60)]
    lifted = await send(house, "POST", "/limits/lift", {"tenant": "acme", "kinds": ["rpm"]})
    assert lifted.body["lifted"] == 1
    assert (await send(house, "POST", "/limits", {"tenant": "acme", "rpm": 0})).status == 400


async def test_a_repeated_grant_that_lasts_so_long_from_now_is_given_once(house: House) -> None:
    for _ in range(2):
        answer = await send(
            house, "POST", "/wallets/acme/grants", {"amount": "1", "expires": "30d"}, idempotency_key="welcome"
        )
        assert (answer.status, answer.body["granted_nano"]) == (201, 1_000_000_000)
        house.clock.advance(NS_PER_S)
    other = await send(
        house, "POST", "/wallets/acme/grants", {"amount": "1", "expires": "31d"}, idempotency_key="welcome"
    )
    assert other.status == 409


async def test_a_repeated_topup_books_once(house: House) -> None:
    for _ in range(2):
        answer = await send(house, "POST", "/wallets/acme/topups", {"amount": "1"}, idempotency_key="invoice-17")
        assert answer.body["balance_nano"] == 6_000_000_000
    other = await send(house, "POST", "/wallets/acme/topups", {"amount": "2"}, idempotency_key="invoice-17")
    assert (other.status, other.error["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/tenants", {"name": "x", "colour": "red"}, 400, "colour"),
        ("POST", "/tenants", {"name": 7}, 400, "name"),
        ("POST", "/tenants", {}, 400, "name"),
        ("POST", "/tenants", {"name": "a:b"}, 400, "name"),
        ("POST", "/tenants", {"name": "acme"}, 409, "name"),
        ("POST", "/keys", {"tenant": "nobody", "name": "k"}, 404, "tenant"),
        ("POST", "/wallets/acme/topups", {"amount": 12.5}, 400, "amount"),
        ("POST", "/wallets/acme/topups", {"amount": "-1"}, 400, "amount"),
        ("POST", "/prices", {"text": "nonsense"}, 400, "text"),
        ("DELETE", "/keys/zwei", None, 400, "id"),
        ("DELETE", "/keys/999", None, 404, "id"),
        ("GET", "/usage?by=colour", None, 400, "by"),
        ("GET", "/usage?since=yesterday", None, 400, "since"),
        ("GET", "/usage?since=1d&until=2d", None, 400, "until"),
        ("GET", "/ledger/entries?limit=100000", None, 400, "limit"),
        ("GET", "/ledger/entries?colour=red", None, 400, "colour"),
        ("GET", "/tenants?colour=red", None, 400, "colour"),
        ("GET", "/requests/nonsense", None, 404, "request_id"),
        ("GET", "/requests/" + "0" * 32, None, 404, "request_id"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    house: House, method: str, path: str, body: object, status: int, param: str
) -> None:
    answer = await send(house, method, path, body)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert answer.error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_a_broken_body_is_400(house: House, body: bytes) -> None:
    answer = await send(house, "POST", "/tenants", body)
    assert answer.status == 400


async def test_a_large_body_is_413(house: House) -> None:
    answer = await send(house, "POST", "/tenants", {"name": "x" * limits.FORM_BYTES_MAX})
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_reports_carry_integers_and_their_texts(house: House) -> None:
    request_id = house.serve_one()
    usage = (await send(house, "GET", "/usage?by=tenant")).body
    (group,) = usage["groups"]
    assert (group["name"], group["requests"], group["input"], group["output"]) == ("acme", 1, 100, 30)
    margin = (await send(house, "GET", "/margin?by=model")).body["groups"][0]
    assert margin["name"] == MODEL
    assert margin["margin_nano"] == margin["charge_nano"] - margin["cost_nano"]
    page = (await send(house, "GET", "/requests?tenant=acme")).body
    assert [(row["request_id"], row["charge"]) for row in page["rows"]] == [(request_id, "0.000097")]
    found = (await send(house, "GET", f"/requests/{request_id}")).body
    assert sum(line["amount_nano"] for line in found["charge"]) == found["row"]["charge_nano"] == group["charge_nano"]
    statement = (await send(house, "GET", "/statements/acme")).body
    assert statement["closing_nano"] == statement["topups_nano"] - statement["charges_nano"]
    assert statement["closing"] == "4.999903"
    accounts = (await send(house, "GET", "/ledger/accounts")).body
    assert {total["debit_nano"] - total["credit_nano"] for total in accounts["totals"]} == {0}
    entries = (await send(house, "GET", "/ledger/entries?account=wallet:acme&limit=1")).body
    assert len(entries["rows"]) == 1 and entries["older"]
    assert (await send(house, "GET", "/verify")).body["ok"] is True
    assert (await send(house, "GET", "/status")).body == {"epoch": 7}
    assert (await send(house, "GET", "/models")).body == []


async def test_ages_and_dates_bound_a_report(house: House) -> None:
    house.serve_one()
    house.clock.advance(2 * 24 * 3600 * 10**9)
    assert (await send(house, "GET", "/usage?since=1d")).body["groups"] == []
    assert (await send(house, "GET", "/usage?since=3d")).body["groups"] != []
    assert (await send(house, "GET", f"/usage?{urlencode({'since': '2020-01-01T00:00:00+08:00'})}")).body[
        "groups"
    ] != []


async def test_the_document_and_the_routes_are_one(house: House) -> None:
    document = (await send(house, "GET", "/openapi.json")).body
    assert document["openapi"].startswith("3.1")
    routes = {
        (route.path, method) for route in admin_routes(house) for method in route.methods or () if method != "HEAD"
    }
    told = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert told == routes
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


async def test_every_reference_and_path_parameter_of_the_document_exists(house: House) -> None:
    document = (await send(house, "GET", "/openapi.json")).body
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in schemas
    for path, methods in document["paths"].items():
        for operation in methods.values():
            places = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert places == set(re.findall(r"{(\w+)}", path))
            assert all(one["required"] for one in operation["parameters"] if one["in"] == "path")
            assert {"default"} < set(operation["responses"])
    assert schemas["TopUp"]["required"] == ["amount"]
    assert schemas["NewTenant"]["additionalProperties"] is False


def test_the_reference_page_lists_every_operation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "admin-api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+ \S+)` \| (.+) \|$", page, flags=re.MULTILINE)
    assert listed == [(f"{one.method} {one.path}", one.summary) for one in OPERATIONS]
