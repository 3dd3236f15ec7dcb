"""How long a film or a sound lasts."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Of files from now on."""
    op.execute("ALTER TABLE file ADD COLUMN duration_ms integer CHECK (duration_ms > 0)")


def downgrade() -> None:
    """As before."""
    op.execute("ALTER TABLE file DROP COLUMN duration_ms")
