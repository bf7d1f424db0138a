"""Add which model answered, under which id, tier and span; tokens put into a cache; and who says what it cost."""

from __future__ import annotations

from llmctx.migrate.adoption import revision as reconciler

revision = "llmctx_0002"
down_revision = "llmctx_0001"
branch_labels = None
depends_on = None
COLUMNS = {
    "response_model": "text", "response_id": "text", "service_tier": "text", "cache_write_tokens": "integer",
    "span_id": "text", "cost_source": "text",
}  # fmt: skip


def upgrade() -> None:
    reconciler.upgrade(revision)


def downgrade() -> None:
    reconciler.downgrade(revision)
