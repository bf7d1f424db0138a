"""${message}"""

from __future__ import annotations

from llmctx.migrate.adoption import revision as reconciler

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

COLUMNS: dict[str, str] = {}
"""Those that this revision adds, and their types on PostgreSQL. Frozen: never edit."""


def upgrade() -> None:
    reconciler.upgrade(revision)


def downgrade() -> None:
    reconciler.downgrade(revision)
