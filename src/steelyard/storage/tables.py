"""The tables. Amounts are int64 nano-units, times int64 nanoseconds since 1970 UTC, request ids sixteen bytes.

Ids of batches and entries are int64 too: a busy platform writes two thousand million of them within its life.
Sub-ledger: `usage`. General ledger: `batches` and `entries`. `rollups` is derived from `usage` and can be rebuilt.
Rows of `tariffs`, `usage`, `batches`, `entries`, `grants`, `credit_limits`, `conversions`, `periods` and `operations`
are never updated or deleted. What customers keep here stands in `kept_tables`, the catalog in `catalog_tables`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from steelyard.storage.catalog_tables import credentials, models, offers, tariffs
from steelyard.storage.kept_tables import answers, files, jobs, responses
from steelyard.storage.routing_tables import aliases, choices, routes
from steelyard.storage.schema import metadata

__all__ = [  # beside all that is defined here
    "aliases",
    "answers",
    "choices",
    "credentials",
    "files",
    "jobs",
    "metadata",
    "models",
    "offers",
    "responses",
    "routes",
    "tariffs",
]

_Long = BigInteger().with_variant(Integer(), "sqlite")  # in SQLite only INTEGER is the row's own id, and has 64 bits

# --- identity -----------------------------------------------------------------------------------------------------

tenants = Table(
    "tenants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("currency", String(3), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id")),  # null: an operator key
    Column("name", String(64), nullable=False),
    Column("hash", LargeBinary(32), nullable=False, unique=True),
    Column("shown", String(32), nullable=False),  # prefix and first characters
    Column("created_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
)

origins = Table(
    "origins",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("source", String(64), nullable=False),  # whose database it was: "new-api", or what the operator calls it
    Column("kind", String(16), nullable=False),  # "tenant", "key", "balance" …
    Column("source_id", String(128), nullable=False),  # its id there
    Column("subject_id", BigInteger, nullable=False),  # what it became here: a tenant, a key, a batch
    Column("at_ns", BigInteger, nullable=False),
    UniqueConstraint("source", "kind", "source_id"),
)

# --- ledger -------------------------------------------------------------------------------------------------------

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),  # "wallet:acme", "revenue:smollm2-135m-instruct", …
    Column("kind", String(32), nullable=False),  # the part before the colon
    Column("currency", String(3), nullable=False),
    Column("tenant_id", ForeignKey("tenants.id")),  # wallets and grants only
    Column("debit_nano", BigInteger, nullable=False),
    Column("credit_nano", BigInteger, nullable=False),
    UniqueConstraint("name", "currency"),
    Index(None, "tenant_id", "kind"),
)
LEFT = accounts.c.credit_nano > accounts.c.debit_nano
"""Of a grant: it is not spent."""
of_left = Index("ix_accounts_tenant_id_left", accounts.c.tenant_id, sqlite_where=LEFT)
"""A tenant's spent grants are never looked through. PostgreSQL is told in storage.postgres: to be told of a dialect
loads it, a twentieth of a second that SQLite's books can spare."""

batches = Table(
    "batches",
    metadata,
    Column("id", _Long, primary_key=True, autoincrement=False),  # counted by posting: the chain has no gap
    Column("posted_ns", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),  # a ledger.accounts.BatchKind
    Column("note", Text, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("previous_hash", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("content", LargeBinary(32)),  # what the hash adds to the one before; null: written before version 0003
    Column("salt", LargeBinary(32)),  # keeps what is not a customer's own from being guessed; null as above
)

entries = Table(
    "entries",
    metadata,
    Column("id", _Long, primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False, index=True),
    Column("fact", String(16), nullable=False),  # a ledger.accounts.Fact
    Column("debit_account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("credit_account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("currency", String(3), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("request_id", LargeBinary(16), primary_key=True),
    Column("batch_id", _Long, nullable=False, index=True),
    Column("opened_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger, nullable=False, index=True),
    Column("tenant_id", Integer, nullable=False, index=True),
    Column("project_id", Integer, nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("model", String(128), nullable=False),
    Column("upstream", String(128), nullable=False),
    Column("price_id", Integer, nullable=False),
    Column("cost_id", Integer, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("sequences", Integer, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cpu_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger, nullable=False),
    Column("hold_nano", BigInteger, nullable=False),
    Column("charge_nano", BigInteger, nullable=False),
    Column("cpu_cost_nano", BigInteger, nullable=False),
    Column("energy_cost_nano", BigInteger, nullable=False),
    Column("end", String(16), nullable=False),
    Column("first_token_ns", BigInteger, nullable=False),
    Column("duration_ns", BigInteger, nullable=False),
    Column("short_by_one_read", Boolean, nullable=False),
    Column("cache_write", BigInteger, nullable=False, server_default="0"),
    Column("reasoning", BigInteger, nullable=False, server_default="0"),
    Column("estimated", Boolean, nullable=False, server_default=false()),
    Column("vendor_cost_nano", BigInteger, nullable=False, server_default="0"),  # in the row's currency
    Column("payable_nano", BigInteger, nullable=False, server_default="0"),  # what its vendor will bill
    Column("payable_currency", String(3), nullable=False, server_default=""),  # empty: an engine served it
    Column("rate_id", Integer, nullable=False, server_default="0"),  # turned the one into the other
    Column("cost_estimated", Boolean, nullable=False, server_default=false()),  # the vendor may have counted more
    Column("heard", String(128), nullable=False, server_default=""),  # counts that the vendor bills, see ledger.chain
    Column("price_when", BigInteger, nullable=False, server_default="0"),  # bit i: variant i's conditions were met
    Column("cost_when", BigInteger, nullable=False, server_default="0"),
    Column("thinking", Integer, nullable=False, server_default="0"),  # a kernel.tariff.Thinking
    Column("reused_input", BigInteger, nullable=False, server_default="0"),
    Column("reused_output", BigInteger, nullable=False, server_default="0"),
    Column("measured_uj", BigInteger, nullable=False, server_default="0"),  # of energy_uj; the rest is modelled
    # PostgreSQL looks up each row's reference by itself, as long as all the rest takes: there only `verify` does (I11).
    ForeignKeyConstraint(["batch_id"], ["batches.id"]).ddl_if(dialect="sqlite"),
)

rollups = Table(
    "rollups",
    metadata,
    Column("grain", String(4), primary_key=True),  # "hour" or "day" (UTC)
    Column("start_ns", BigInteger, primary_key=True),
    Column("tenant_id", Integer, primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("currency", String(3), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("cached_input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cpu_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger, nullable=False),
    Column("charge_nano", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False, server_default="0"),
    Column("reasoning", BigInteger, nullable=False, server_default="0"),
    Column("reused_input", BigInteger, nullable=False, server_default="0"),
    Column("reused_output", BigInteger, nullable=False, server_default="0"),
    Column("measured_uj", BigInteger, nullable=False, server_default="0"),
)

watermarks = Table(
    "watermarks",
    metadata,
    Column("journal", String(64), primary_key=True),  # file name of the journal segment's series: "w0-17"
    Column("segment", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),  # first byte of that segment not yet consumed
)

counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),  # "snapshot", "epoch"
    Column("value", BigInteger, nullable=False),
)

# --- money operations ---------------------------------------------------------------------------------------------

operations = Table(
    "operations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),  # of its batch; or "limit", "allowance", "close", which have none
    Column("tenant_id", ForeignKey("tenants.id")),
    Column("batch_id", ForeignKey("batches.id"), index=True),
    Column("amount_nano", BigInteger),
    Column("request_id", LargeBinary(16), index=True),  # a credit for this request
    Column("reverses_id", ForeignKey("batches.id"), unique=True),  # a batch is reversed at most once
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("idempotency_key", String(128)),  # a repeated key answers the first operation
    Column("asked", Text, nullable=False),  # JSON: what the key stands for
    Column("answer", Text, nullable=False),  # JSON: what is answered again
    UniqueConstraint("tenant_id", "idempotency_key"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, unique=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("granted_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("allowance_id", ForeignKey("allowances.id")),
    Column("window_start_ns", BigInteger),
    UniqueConstraint("allowance_id", "window_start_ns"),
)

credit_limits = Table(
    "credit_limits",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("limit_nano", BigInteger, nullable=False),
    Column("set_ns", BigInteger, nullable=False),
    Column(
        "after_batch_id", BigInteger, nullable=False
    ),  # in force for the batches behind this one, until the next row
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
)

allowances = Table(
    "allowances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("amount_nano", BigInteger, nullable=False),
    Column("every", String(8), nullable=False),  # a kernel.calendar.Every
    Column("zone", String(64), nullable=False),
    Column("week_start", Integer, nullable=False),
    Column("started_ns", BigInteger, nullable=False),
    Column("stopped_ns", BigInteger),
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
)

conversions = Table(
    "conversions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False, unique=True),
    Column("from_currency", String(3), nullable=False),
    Column("to_currency", String(3), nullable=False),
    Column("from_nano", BigInteger, nullable=False),
    Column("to_nano", BigInteger, nullable=False),
    Column("rate_numerator", BigInteger, nullable=False),  # to = from × numerator ÷ denominator, half-even
    Column("rate_denominator", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

periods = Table(
    "periods",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("until_ns", BigInteger, nullable=False, unique=True),  # everything before is closed
    Column("zone", String(64), nullable=False),
    Column("last_batch_id", BigInteger, nullable=False),  # the last one of the period; 0: there was none
    Column("after_batch_id", BigInteger, nullable=False),  # the last one of the books when it was closed
    Column("balances_hash", LargeBinary(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("closed_ns", BigInteger, nullable=False),
)

sublimits = Table(
    "sublimits",
    metadata,
    Column("id", Integer, primary_key=True),  # of a subject, kind and length the latest is in force
    Column("scope", String(8), nullable=False),  # a kernel.records.Scope
    Column("subject_id", Integer, nullable=False),  # of the tenant, project or key
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", String(64), nullable=False),  # the subject's
    Column("kind", String(16), nullable=False),  # a kernel.records.LimitKind
    Column("amount", BigInteger),  # nano-units of a budget, else a count; null: lifted
    Column("every", String(8), nullable=False),  # budgets only: a kernel.calendar.Every
    Column("zone", String(64), nullable=False),
    Column("week_start", Integer, nullable=False),  # Monday = 0
    Column("set_ns", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
)

# --- proofs and corrections ---------------------------------------------------------------------------------------

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),  # "chain": what the salts of the batches are made from
    Column("value", LargeBinary(32), nullable=False),
)

corrections = Table(
    "corrections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("book_hash", LargeBinary(32), nullable=False),  # of the price file usage was rated with again
    Column("since_ns", BigInteger, nullable=False),  # requests closed from here
    Column("until_ns", BigInteger, nullable=False),  # … up to here, excluded
    Column("batch_id", ForeignKey("batches.id")),  # null: there was nothing to correct
    Column("reason", Text, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("posted_ns", BigInteger, nullable=False),
    UniqueConstraint("book_hash", "since_ns", "until_ns"),
)
