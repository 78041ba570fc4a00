"""Keys of vendors, sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credentials",
        sa.Column("upstream", sa.String(length=128), primary_key=True),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("shown", sa.String(length=8), nullable=False),
        sa.Column("set_ns", sa.BigInteger(), nullable=False),
    )
