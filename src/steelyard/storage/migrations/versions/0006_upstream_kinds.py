"""Which adapter speaks to the upstream of an offer."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offers", sa.Column("kind", sa.String(length=32), nullable=False, server_default="llama_cpp"))
