"""The tables, as they were made years ago."""

from __future__ import annotations

from alembic import op
from models import metadata

revision = "clinic_0001"
down_revision = None
branch_labels = ("clinic",)
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    metadata.drop_all(op.get_bind())
