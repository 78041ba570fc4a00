"""How much of a request's energy an instrument measured; the rest is modelled."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("usage", "rollups"):
        op.add_column(table, sa.Column("measured_uj", sa.BigInteger(), nullable=False, server_default="0"))
