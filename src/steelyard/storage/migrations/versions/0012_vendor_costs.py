"""What vendors cost: tariffs for one model of an upstream, and what each request owes its vendor, in his currency."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tariffs", sa.Column("model", sa.String(length=256), nullable=False, server_default=""))
    for amount in ("vendor_cost_nano", "payable_nano"):
        op.add_column("usage", sa.Column(amount, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("payable_currency", sa.String(length=3), nullable=False, server_default=""))
    op.add_column("usage", sa.Column("rate_id", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("usage", sa.Column("cost_estimated", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("usage", sa.Column("heard", sa.String(length=128), nullable=False, server_default=""))
