"""Idempotent requests: who claimed a key, and the answer that is replayed. Needs nothing but 0001."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("tenant_id", sa.Integer(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("request_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("series", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False),
        sa.Column("headers", sa.LargeBinary(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_answers")),
    )
    op.create_index(op.f("ix_answers_changed_ns"), "answers", ["changed_ns"], unique=False)
    op.create_index(op.f("ix_answers_tenant_id"), "answers", ["tenant_id"], unique=False)
