"""Two more buckets of usage, prompt and output of answers that had been given before, and who wants such answers."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("usage", "rollups"):
        for bucket in ("reused_input", "reused_output"):
            op.add_column(table, sa.Column(bucket, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("routes", sa.Column("answers_s", sa.Integer(), nullable=False, server_default="0"))
