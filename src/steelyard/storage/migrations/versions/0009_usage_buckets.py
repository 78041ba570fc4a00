"""Two more buckets of usage, tokens written to a vendor's cache and reasoning, and whether counts are our own."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("usage", "rollups"):
        for bucket in ("cache_write", "reasoning"):
            op.add_column(table, sa.Column(bucket, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("estimated", sa.Boolean(), nullable=False, server_default=sa.false()))
