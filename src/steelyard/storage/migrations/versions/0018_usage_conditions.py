"""What the variants of a request's tariffs depended on when it was opened."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("price_when", "cost_when"):
        op.add_column("usage", sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("thinking", sa.Integer(), nullable=False, server_default="0"))
