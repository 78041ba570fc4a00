"""LiteLLM's virtual keys, read from the database it uses (PostgreSQL), and from a copy in SQLite."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, Connection, Float, Integer, MetaData, Table, Text, create_engine, insert
from sqlalchemy.dialects.postgresql import ARRAY

from steelyard.imports.foreign_database import foreign_database
from steelyard.imports.litellm_keys import litellm_keys_plan
from steelyard.imports.names import fitting
from steelyard.imports.plan import Plan
from steelyard.imports.tokens import Tenancy
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import StartError
from steelyard.storage.postgres import DRIVER

NOW_NS = 1_764_288_000 * NS_PER_S  # 2025-11-28
_TEXTS = ARRAY(Text).with_variant(JSON, "sqlite")
_META = MetaData()
_BOUNDS = (
    ("max_budget", Float),
    ("spend", Float),
    ("budget_duration", Text),
    ("tpm_limit", Integer),
    ("rpm_limit", Integer),
)


def _table(name: str, key: str, *columns: tuple[str, Any]) -> Table:
    of_all = (*_BOUNDS, ("models", _TEXTS), ("max_parallel_requests", Integer), ("blocked", Boolean))
    return Table(name, _META, Column(key, Text, primary_key=True), *(Column(*one) for one in (*columns, *of_all)))


TEAMS = _table("LiteLLM_TeamTable", "team_id", ("team_alias", Text))
USERS = _table("LiteLLM_UserTable", "user_id", ("user_email", Text))
BUDGETS = _table("LiteLLM_BudgetTable", "budget_id")
KEYS = _table(
    "LiteLLM_VerificationToken", "token", ("key_name", Text), ("key_alias", Text), ("team_id", Text), ("user_id", Text),
    ("budget_id", Text), ("expires", Text), ("allowed_routes", _TEXTS), ("model_max_budget", JSON),
)  # fmt: skip


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def fill(connection: Connection) -> None:
    """A team with a monthly budget, one that is blocked, a user; keys of every kind."""
    _META.create_all(connection)

    def add(table: Table, **row: Any) -> None:
        connection.execute(insert(table).values(row))

    add(
        TEAMS, team_id="t-1", team_alias="Search/Ads", max_budget=100.5, budget_duration="30d", rpm_limit=600, spend=1.5
    )
    add(TEAMS, team_id="t-2", blocked=True)
    add(USERS, user_id="u-1", user_email="eve@example.com", max_budget=10.0, spend=2.25)
    add(BUDGETS, budget_id="b-1", max_budget=3.0, budget_duration="1d")
    for name, row in {
        "one": {"team_id": "t-1", "key_alias": "one", "key_name": "sk-...one1", "models": ["all-team-models"]},
        "two": {"team_id": "t-1", "budget_id": "b-1", "tpm_limit": 5000, "max_parallel_requests": 4},
        "ends": {"team_id": "t-1", "key_alias": "ends", "expires": "2027-01-01 00:00:00"},
        "over": {"team_id": "t-1", "key_alias": "over", "expires": "2025-01-01 00:00:00"},
        "some": {"user_id": "u-1", "key_alias": "some", "models": ["gpt-4o"], "max_budget": 7.0},
        "free": {"user_id": "u-1", "key_alias": "free", "model_max_budget": {}, "allowed_routes": ["llm_api_routes"]},
        "off": {"user_id": "u-1", "key_alias": "off", "blocked": True},
        "gone": {"team_id": "t-2", "key_alias": "gone"},
        "lost": {"key_alias": "lost"},
    }.items():
        add(KEYS, token=digest(f"sk-{name}"), **row)
    add(KEYS, token="sk-in-the-clear", user_id="u-1", key_alias="clear")


@pytest.fixture
def database(place: Path | DatabaseUrl) -> Iterator[str]:
    text = place.text if isinstance(place, DatabaseUrl) else f"sqlite:///{place}"
    engine = create_engine(text.replace("postgresql://", f"{DRIVER}://"))
    with engine.begin() as connection:
        fill(connection)
    engine.dispose()
    yield place.text if isinstance(place, DatabaseUrl) else str(place)


def plan(database: str, *, loosen: bool = False) -> Plan:
    with foreign_database(database) as foreign:
        return litellm_keys_plan(foreign, Tenancy("litellm", "", loosen, NOW_NS))


def payloads(found: Plan, op: str) -> list[dict[str, Any]]:
    return [step.payload for group in found.groups for step in group if step.op == op]


@pytest.mark.postgres
def test_teams_and_users_are_tenants_and_keys_come_by_their_hash(database: str) -> None:
    found = plan(database)
    assert {one["id"]: one["name"] for one in payloads(found, "tenant")} == {
        "team t-1": "Search-Ads",
        "user u-1": "eve@example.com",
    }
    keys = {one["name"]: one for one in payloads(found, "key")}
    assert set(keys) == {"one", f"key {digest('sk-two')[:8]}", "free"}
    assert (keys["one"]["hash"], keys["one"]["shown"]) == (digest("sk-one"), "sk-...one1")
    limits = {(one["tenant"], one.get("key")): one for one in payloads(found, "limits")}
    team, two = limits["team t-1", None], limits["team t-1", digest("sk-two")]
    assert (team["budget"], team["every"], team["rpm"]) == ("100.5", "month", 600)
    assert (two["budget"], two["every"], two["tpm"], two["concurrency"]) == ("3", "day", 5000, 4)
    assert len(limits) == 2
    told = {left.what: left.why for left in found.left}
    assert "may spend 10 USD in all (spent: 2.25)" in told["tenant eve@example.com"]
    assert "ends on 2027-01-01" in told["key sk-… (ends) of Search-Ads"]
    assert "some models only" in told["key sk-… (some) of eve@example.com"]
    assert "may spend 7 USD in all (spent: 0)" in told["key sk-… (some) of eve@example.com"]
    assert "blocked" in told["key sk-… (off) of eve@example.com"] and "blocked" in told["key sk-… (gone)"]
    assert "no team and no user" in told["key sk-… (lost)"]
    assert "SHA-256" in told["key sk-… (clear) of eve@example.com"]
    assert "in-the-clear" not in f"{found}"


def test_bounds_are_dropped_only_where_asked(database: str) -> None:
    found = plan(database, loosen=True)
    assert {one["name"] for one in payloads(found, "key")} >= {"ends", "some"}
    assert any("without its bounds: it ends on" in left.why for left in found.left)


@pytest.mark.postgres
@pytest.mark.parametrize("loosen", [False, True])
def test_a_key_that_has_ended_stays_behind_whatever_is_asked(database: str, *, loosen: bool) -> None:
    found = plan(database, loosen=loosen)
    assert "over" not in {one["name"] for one in payloads(found, "key")}
    assert {left.what: left.why for left in found.left}["key sk-… (over) of Search-Ads"] == "It has ended."


def test_another_database_is_refused(tmp_path: Path) -> None:
    create_engine(f"sqlite:///{tmp_path / 'x.db'}").connect().exec_driver_sql("CREATE TABLE users (id int)")
    with pytest.raises(StartError, match="no database of LiteLLM"):
        plan(str(tmp_path / "x.db"))


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("a/b:c", "a-b-c"),
        ("  x ", "x"),
        ("", "other"),
        ("::", "other"),
        ("北京 team", "北京 team"),
        ("y" * 70, "y" * 64),
    ],
)
def test_names_that_ours_may_have(told: str, name: str) -> None:
    assert fitting(told, "other") == name
    assert json.dumps(fitting(told, "other"))
