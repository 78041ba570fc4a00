"""Grants, credit limits, allowances, conversions, closed periods; every money operation with its reason and actor."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_index(op.f("ix_accounts_tenant_id_kind"), "accounts", ["tenant_id", "kind"], unique=False)
    left = sa.text("credit_nano > debit_nano")
    op.create_index("ix_accounts_tenant_id_left", "accounts", ["tenant_id"], sqlite_where=left, postgresql_where=left)
    _create_operations()
    _create_grants()
    op.create_table(
        "conversions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("batch_id", LONG, nullable=False),
        sa.Column("from_currency", sa.String(length=3), nullable=False),
        sa.Column("to_currency", sa.String(length=3), nullable=False),
        sa.Column("from_nano", sa.BigInteger(), nullable=False),
        sa.Column("to_nano", sa.BigInteger(), nullable=False),
        sa.Column("rate_numerator", sa.BigInteger(), nullable=False),
        sa.Column("rate_denominator", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_conversions_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversions")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_conversions_batch_id")),
    )
    op.create_table(
        "periods",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("until_ns", sa.BigInteger(), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("last_batch_id", sa.BigInteger(), nullable=False),
        sa.Column("after_batch_id", sa.BigInteger(), nullable=False),
        sa.Column("balances_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("closed_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_periods")),
        sa.UniqueConstraint("until_ns", name=op.f("uq_periods_until_ns")),
    )
    _move_topups()


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("tenant_id", sa.Integer(), nullable=True),
        sa.Column("batch_id", LONG, nullable=True),
        sa.Column("amount_nano", sa.BigInteger(), nullable=True),
        sa.Column("request_id", sa.LargeBinary(length=16), nullable=True),
        sa.Column("reverses_id", LONG, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=True),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_operations_batch_id")),
        sa.ForeignKeyConstraint(["reverses_id"], ["batches.id"], name=op.f("fk_operations_reverses_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_operations_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint("reverses_id", name=op.f("uq_operations_reverses_id")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name=op.f("uq_operations_tenant_id_idempotency_key")),
    )
    op.create_index(op.f("ix_operations_batch_id"), "operations", ["batch_id"], unique=False)
    op.create_index(op.f("ix_operations_request_id"), "operations", ["request_id"], unique=False)


def _create_grants() -> None:
    op.create_table(
        "credit_limits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Integer(), nullable=False),
        sa.Column("limit_nano", sa.BigInteger(), nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
        sa.Column("after_batch_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_credit_limits_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_limits")),
    )
    op.create_index(op.f("ix_credit_limits_tenant_id"), "credit_limits", ["tenant_id"], unique=False)
    op.create_table(
        "allowances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Integer(), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("every", sa.String(length=8), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=False),
        sa.Column("week_start", sa.Integer(), nullable=False),
        sa.Column("started_ns", sa.BigInteger(), nullable=False),
        sa.Column("stopped_ns", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_allowances_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allowances")),
    )
    op.create_index(op.f("ix_allowances_tenant_id"), "allowances", ["tenant_id"], unique=False)
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("batch_id", LONG, nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("granted_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.Column("allowance_id", sa.Integer(), nullable=True),
        sa.Column("window_start_ns", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_grants_account_id")),
        sa.ForeignKeyConstraint(["allowance_id"], ["allowances.id"], name=op.f("fk_grants_allowance_id")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_grants_batch_id")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_grants_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sa.UniqueConstraint("account_id", name=op.f("uq_grants_account_id")),
        sa.UniqueConstraint("allowance_id", "window_start_ns", name=op.f("uq_grants_allowance_id_window_start_ns")),
    )
    op.create_index(op.f("ix_grants_tenant_id"), "grants", ["tenant_id"], unique=False)


def _move_topups() -> None:
    """Top-ups were the only operation; their idempotency keys live on among the others."""
    integer, text = sa.BigInteger, sa.Text
    topups = sa.table(
        "topups",
        sa.column("id", integer), sa.column("tenant_id", integer), sa.column("batch_id", integer),
        sa.column("amount_nano", integer), sa.column("idempotency_key", text),
    )  # fmt: skip
    batches = sa.table("batches", sa.column("id", integer), sa.column("posted_ns", integer), sa.column("note", text))
    operations = sa.table(
        "operations",
        sa.column("kind", text), sa.column("tenant_id", integer), sa.column("batch_id", integer),
        sa.column("amount_nano", integer), sa.column("reason", text), sa.column("actor", text),
        sa.column("at_ns", integer), sa.column("idempotency_key", text), sa.column("asked", text),
        sa.column("answer", text),
    )  # fmt: skip
    query = sa.select(topups, batches.c.posted_ns, batches.c.note).join_from(
        topups, batches, topups.c.batch_id == batches.c.id
    )
    for row in op.get_bind().execute(query.order_by(topups.c.id)).fetchall():
        values = {
            "kind": "topup",
            "tenant_id": row.tenant_id,
            "batch_id": row.batch_id,
            "amount_nano": row.amount_nano,
            "reason": row.note,
            "actor": "",
            "at_ns": row.posted_ns,
            "idempotency_key": row.idempotency_key,
            "asked": json.dumps(["topup", row.amount_nano]),
            "answer": json.dumps({"batch": row.batch_id, "amount_nano": row.amount_nano}),
        }
        op.get_bind().execute(sa.insert(operations).values(values))
    op.drop_table("topups")
