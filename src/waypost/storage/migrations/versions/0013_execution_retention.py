"""Rows of asynchronous executions may go when their time is over."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Let the settling role delete them; nobody else changes them either."""
    op.execute("GRANT DELETE ON asynchronous_execution TO waypost_settle")


def downgrade() -> None:
    """As before."""
    op.execute("REVOKE DELETE ON asynchronous_execution FROM waypost_settle")
