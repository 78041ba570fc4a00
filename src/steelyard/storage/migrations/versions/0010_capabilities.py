"""What an offer can be asked for: text, embeddings, ranks, judgements."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offers", sa.Column("capabilities", sa.String(length=64), nullable=False, server_default="text"))
