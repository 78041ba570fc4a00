"""Rules of routing, aliases of models, and the bounds of offers."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "routes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(length=8), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("policy", sa.String(length=16), nullable=False),
        sa.Column("pinned", sa.Text(), nullable=False),
        sa.Column("guard", sa.String(length=16), nullable=False),
        sa.Column("fallbacks", sa.Text(), nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_routes")),
        sa.UniqueConstraint("scope", "subject", name=op.f("uq_routes_scope_subject")),
    )
    op.create_table(
        "aliases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aliases")),
        sa.UniqueConstraint("name", name=op.f("uq_aliases_name")),
    )
    op.add_column("offers", sa.Column("weight", sa.Integer(), nullable=False, server_default="100"))
    for name in ("concurrency", "rpm", "tpm", "first_token_s"):
        op.add_column("offers", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
