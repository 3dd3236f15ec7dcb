"""A budget's amount may change."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("GRANT UPDATE (amount) ON budget TO waypost_app")


def downgrade() -> None:
    op.execute("REVOKE UPDATE (amount) ON budget FROM waypost_app")
