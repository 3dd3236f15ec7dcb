"""An execution is found by its organisation and its id: one index, which is the primary key, where there were two."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Make the key that every search of a tenant goes by the primary one. Of three indexes that a settlement and its
    execution were written into, two are left."""
    op.execute(
        """
        DROP INDEX execution_of_org;
        ALTER TABLE execution DROP CONSTRAINT execution_pkey, ADD PRIMARY KEY (org_id, id);
        """
    )


def downgrade() -> None:
    """As before."""
    op.execute(
        """
        ALTER TABLE execution DROP CONSTRAINT execution_pkey, ADD PRIMARY KEY (id);
        CREATE INDEX execution_of_org ON execution (org_id, id);
        """
    )
