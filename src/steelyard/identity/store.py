"""Tenants, projects and keys in the database.

Owns the rules for their names and what may be shown of a key: the secret itself is returned once and never stored.
Knows no wallet. Every function works in the caller's transaction and raises CallerError 400, 404 or 409.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.ids import API_KEY_PREFIX, OPERATOR_KEY_PREFIX, new_secret, secret_hash, shown_part
from steelyard.kernel.money import CURRENCIES
from steelyard.kernel.records import Caller
from steelyard.storage import tables

DEFAULT_PROJECT = "default"
_NAME = re.compile(r"\w(?:[\w .@+-]*[\w.+-])?")  # letters and digits of any script; a colon would break account names


class Tenant(NamedTuple):
    id: int
    name: str
    currency: str
    created_ns: int


class Key(NamedTuple):
    """A key without its secret. `tenant` and `project` are None for an operator key."""

    id: int
    tenant: str | None
    project: str | None
    name: str
    shown: str
    created_ns: int
    revoked_ns: int | None


_KEYS = select(
    tables.keys.c.id,
    tables.tenants.c.name.label("tenant"),
    tables.projects.c.name.label("project"),
    tables.keys.c.name,
    tables.keys.c.shown,
    tables.keys.c.created_ns,
    tables.keys.c.revoked_ns,
).select_from(tables.keys.outerjoin(tables.projects).outerjoin(tables.tenants))


def check_name(name: object, param: str) -> str:
    """The name if it may be one; `param` is the field named in the error."""
    if not isinstance(name, str) or len(name) > limits.NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise bad_request(
            f"'{param}' must be 1 to {limits.NAME_CHARACTERS_MAX} letters, digits, spaces or . _ - @ +.", param
        )
    return name


def add_tenant(connection: Connection, name: str, currency: str, clock: Clock) -> Tenant:
    """A new tenant with the project "default"."""
    check_name(name, "name")
    if currency not in CURRENCIES:
        raise bad_request(f"'currency' must be one of {', '.join(CURRENCIES)}.", "currency")
    now_ns = clock.now_ns()
    row = {"name": name, "currency": currency, "created_ns": now_ns}
    try:
        tenant_id = connection.execute(insert(tables.tenants).values(row)).inserted_primary_key[0]  # type: ignore[index]
    except IntegrityError:
        raise _conflict(f"A tenant named {name!r} exists already.", "name") from None
    add_project(connection, tenant_id, DEFAULT_PROJECT, clock)
    return Tenant(tenant_id, name, currency, now_ns)


def list_tenants(connection: Connection) -> list[Tenant]:
    """All tenants in the order they came."""
    columns = tables.tenants.c
    rows = connection.execute(
        select(columns.id, columns.name, columns.currency, columns.created_ns).order_by(columns.id)
    )
    return [Tenant(*row) for row in rows]


def find_tenant(connection: Connection, name: str) -> Tenant:
    """The tenant of that name; 404 when there is none."""
    columns = tables.tenants.c
    row = connection.execute(
        select(columns.id, columns.name, columns.currency, columns.created_ns).where(columns.name == name)
    ).one_or_none()
    if row is None:
        raise _missing(f"There is no tenant named {name!r}.", "tenant")
    return Tenant(*row)


def find_tenant_by_id(connection: Connection, tenant_id: int) -> Tenant:
    """The tenant with that id."""
    columns = tables.tenants.c
    query = select(columns.id, columns.name, columns.currency, columns.created_ns).where(columns.id == tenant_id)
    return Tenant(*connection.execute(query).one())


def add_project(connection: Connection, tenant_id: int, name: str, clock: Clock) -> int:
    """A new project of the tenant; returns its id."""
    row = {"tenant_id": tenant_id, "name": check_name(name, "project"), "created_ns": clock.now_ns()}
    try:
        return int(connection.execute(insert(tables.projects).values(row)).inserted_primary_key[0])  # type: ignore[index]
    except IntegrityError:
        raise _conflict(f"The tenant has a project named {name!r} already.", "project") from None


def find_project(connection: Connection, tenant_id: int, name: str) -> int:
    """The id of the tenant's project of that name; 404 when there is none."""
    columns = tables.projects.c
    found = connection.execute(
        select(columns.id).where(columns.tenant_id == tenant_id, columns.name == name)
    ).scalar_one_or_none()
    if found is None:
        raise _missing(f"The tenant has no project named {name!r}.", "project")
    return int(found)


def add_key(connection: Connection, project_id: int | None, name: str, clock: Clock) -> tuple[Key, str]:
    """A new key of the project (None: an operator key) and its secret, which is shown this once."""
    secret = new_secret(OPERATOR_KEY_PREFIX if project_id is None else API_KEY_PREFIX)
    row = {
        "project_id": project_id,
        "name": check_name(name, "name"),
        "hash": secret_hash(secret),
        "shown": shown_part(secret),
        "created_ns": clock.now_ns(),
    }
    key_id = connection.execute(insert(tables.keys).values(row)).inserted_primary_key[0]  # type: ignore[index]
    return find_key(connection, key_id), secret


def add_hashed_key(connection: Connection, project_id: int, name: str, digest: bytes, shown: str, clock: Clock) -> int:
    """A key that another system gave out, by the SHA-256 of its text; its id. 409 when such a key is here already."""
    row = {
        "project_id": project_id,
        "name": check_name(name, "name"),
        "hash": digest,
        "shown": shown,
        "created_ns": clock.now_ns(),
    }
    if connection.execute(select(tables.keys.c.id).where(tables.keys.c.hash == digest)).first() is not None:
        raise _conflict("This key is here already.", "key")
    return int(connection.execute(insert(tables.keys).values(row)).inserted_primary_key[0])  # type: ignore[index]


def find_key(connection: Connection, key_id: int) -> Key:
    """The key with that id; 404 when there is none."""
    rows = connection.execute(_KEYS.where(tables.keys.c.id == key_id)).all()
    if not rows:
        raise _missing(f"There is no key with the id {key_id}.", "id")
    return Key(*rows[0])


def list_keys(connection: Connection, tenant_id: int | None = None) -> list[Key]:
    """All keys, revoked ones included, or those of one tenant."""
    query = _KEYS if tenant_id is None else _KEYS.where(tables.projects.c.tenant_id == tenant_id)
    return [Key(*row) for row in connection.execute(query.order_by(tables.keys.c.id))]


def revoke_key(connection: Connection, key_id: int, clock: Clock) -> Key:
    """End a key. Revoking it again changes nothing."""
    columns = tables.keys.c
    connection.execute(
        update(tables.keys).where(columns.id == key_id, columns.revoked_ns.is_(None)).values(revoked_ns=clock.now_ns())
    )
    return find_key(connection, key_id)


def revoked_keys(connection: Connection, since_ns: int) -> list[int]:
    """Customers' keys that were ended since then."""
    columns = tables.keys.c
    query = select(columns.id).where(columns.revoked_ns >= since_ns, columns.project_id.is_not(None))
    return list(connection.execute(query).scalars())


class KeyCounts(NamedTuple):
    """How many live keys there are, and what else a table of them needs room for."""

    live: int
    key_id_max: int
    projects: int
    project_id_max: int


def key_counts(connection: Connection) -> KeyCounts:
    """As they stand now."""
    keys, projects = tables.keys.c, tables.projects.c
    live = select(func.count()).select_from(tables.keys).where(keys.revoked_ns.is_(None), keys.project_id.is_not(None))
    highest = select(func.coalesce(func.max(keys.id), 0))
    of_projects = select(func.count(), func.coalesce(func.max(projects.id), 0))
    return KeyCounts(
        connection.execute(live).scalar_one(),
        connection.execute(highest).scalar_one(),
        *connection.execute(of_projects).one(),
    )


def live_callers(connection: Connection) -> Iterator[tuple[bytes, Caller]]:
    """The digest of each customer's live key and who it stands for; they pass by, only the projects are kept."""
    keys, projects, tenants = tables.keys.c, tables.projects.c, tables.tenants.c
    of = select(projects.id, tenants.id, tenants.name, projects.name, tenants.currency)
    known = {row[0]: row[1:] for row in connection.execute(of.select_from(tables.projects.join(tables.tenants)))}
    live = select(keys.hash, keys.id, keys.project_id).where(keys.revoked_ns.is_(None), keys.project_id.is_not(None))
    for digest, key_id, project_id in connection.execute(live, execution_options={"yield_per": 1000}):
        yield digest, Caller(key_id, project_id, *known[project_id])


def operator_names(connection: Connection) -> dict[bytes, str]:
    """Digest of each live operator key → its name."""
    keys = tables.keys.c
    query = select(keys.hash, keys.name).where(keys.project_id.is_(None), keys.revoked_ns.is_(None))
    return {row[0]: row[1] for row in connection.execute(query)}


def _conflict(message: str, param: str) -> CallerError:
    return CallerError(409, "already_exists", message, param=param)


def _missing(message: str, param: str) -> CallerError:
    return CallerError(404, "not_found", message, param=param)
