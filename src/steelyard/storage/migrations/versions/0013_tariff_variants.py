"""Variants of a tariff version: other lines under conditions."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tariffs", sa.Column("variants", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("tariffs", sa.Column("marginal", sa.Boolean(), nullable=False, server_default=sa.false()))
