"""Under which version of the catalogue a job was submitted to its provider."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Of submissions from now on."""
    op.execute("ALTER TABLE asynchronous_execution ADD COLUMN catalogue_version bigint")


def downgrade() -> None:
    """As before."""
    op.execute("ALTER TABLE asynchronous_execution DROP COLUMN catalogue_version")
