"""Prices for a tier of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tariffs", sa.Column("tier", sa.String(length=16), nullable=False, server_default=""))
