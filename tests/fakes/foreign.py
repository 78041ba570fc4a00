"""Databases of one-api and new-api as those make them: their tables, their columns, a few rows of every kind."""

import json
import sqlite3
from pathlib import Path
from typing import Any

CHANNEL_KEY = "sk-channel-secret-0123456789abcdef0123456789"
TOKEN = "A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7h8"  # 48 characters, without its sk-
_CHANNELS = {
    "id": "integer primary key autoincrement",
    "type": "integer default 0",
    "key": "text not null",
    "status": "integer default 1",
    "name": "text",
    "weight": "integer default 0",
    "base_url": "text default ''",
    "models": "text",
    "group": "varchar(32) default 'default'",
    "used_quota": "bigint default 0",
    "model_mapping": "text default ''",
    "priority": "bigint default 0",
    "param_override": "text",
}
_USERS = {
    "id": "integer primary key autoincrement",
    "username": "text unique",
    "password": "text not null",
    "role": "int default 1",
    "status": "int default 1",
    "access_token": "char(32)",
    "quota": "int default 0",
    "used_quota": "int default 0",
    "group": "varchar(32) default 'default'",
    "deleted_at": "datetime",
}
_TOKENS = {
    "id": "integer primary key autoincrement",
    "user_id": "integer",
    "key": "char(48) unique",
    "status": "integer default 1",
    "name": "text",
    "expired_time": "bigint default -1",
    "remain_quota": "bigint default 0",
    "unlimited_quota": "numeric default false",
    "used_quota": "bigint default 0",
}
_OF_NEW_API = {"model_limits_enabled": "numeric", "model_limits": "text", "allow_ips": "text", "deleted_at": "datetime"}
_OF_ONE_API = {"models": "text", "subnet": "text"}


class ForeignBooks:
    """A SQLite file with the tables of `system`; rows are added by keyword."""

    def __init__(self, path: Path, system: str) -> None:
        self.path = path
        self._connection = sqlite3.connect(path)
        more = _OF_NEW_API if system == "new-api" else _OF_ONE_API
        tables = {"channels": _CHANNELS, "users": _USERS, "tokens": _TOKENS | more}
        for name, columns in tables.items():
            shown = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
            self._connection.execute(f"CREATE TABLE {name} ({shown})")
        self._connection.execute('CREATE TABLE options ("key" varchar(64) primary key, "value" text)')

    def add(self, table: str, **row: Any) -> None:
        if table == "users":
            row = {"password": "$2a$10$secret-hash-of-a-password"} | row
        names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" for _ in row)
        self._connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
        self._connection.commit()

    def change(self, statement: str) -> None:
        self._connection.execute(statement)
        self._connection.commit()

    def options(self, **values: Any) -> None:
        for key, value in values.items():
            self.add("options", key=key, value=value if isinstance(value, str) else json.dumps(value))

    def close(self) -> None:
        self._connection.close()


def small_site(path: Path, system: str = "new-api") -> ForeignBooks:
    """Two channels, one of them off; two users, of whom one owes; tokens of every kind; ratios."""
    site = ForeignBooks(path, system)
    models = "qwen-shop,text-embedding-v3,per-call,unpriced"
    mapping = json.dumps({"qwen-shop": "qwen-plus"})
    common = {"key": CHANNEL_KEY, "models": models, "name": "main"}
    site.add("channels", type=1, base_url="https://gateway.example", model_mapping=mapping, **common)
    site.add("channels", type=14, status=2, **common)
    site.add("channels", type=2, **common)
    site.add("users", username="alice", role=100, quota=1_234_567, used_quota=500_000)
    site.add("users", username="bob", quota=-250_000, group="vip")
    site.add("users", username="carol", status=2, quota=5)
    site.add("users", username="dave", deleted_at="2026-01-01 00:00:00")
    site.add("tokens", user_id=1, key=TOKEN, name="laptop", unlimited_quota=1)
    site.add("tokens", user_id=1, key="Z" + TOKEN[1:], name="ends", unlimited_quota=1, expired_time=1_900_000_000)
    site.add("tokens", user_id=1, key="Y" + TOKEN[1:], name="bound", remain_quota=50_000)
    site.add("tokens", user_id=1, key="short", name="short", unlimited_quota=1)
    site.add("tokens", user_id=2, key="X" + TOKEN[1:], name="off", status=2, unlimited_quota=1)
    site.options(
        ModelRatio={"qwen-shop": 0.3572, "text-embedding-v3": 0.05, "per-call": 1},
        CompletionRatio={"qwen-shop": 2.5},
        CacheRatio={"qwen-shop": 0.2},
        ModelPrice={"per-call": 0.1},
        GroupRatio={"default": 1, "vip": 0.8},
    )
    return site
