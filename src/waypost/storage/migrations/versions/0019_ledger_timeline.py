"""On which of PostgreSQL's timelines the books were last found whole, and to which each node has presented its leases.

A standby that is promoted begins a timeline of its own. If it had not received every commit, the last ones are gone.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

# Of what is written now: pg_control_checkpoint() tells of the last checkpoint, and that may be from before a promotion.
# A server that keeps its WAL from us, as some of those for rent do, has no timeline: then NULL is equal to NULL.
_CURRENT_TIMELINE = """
CREATE FUNCTION current_timeline() RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer;
EXCEPTION WHEN feature_not_supported OR undefined_function OR insufficient_privilege THEN
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    """The books are whole where this runs, and so is what every node knows of them."""
    op.execute(_CURRENT_TIMELINE)
    op.execute(
        """
        CREATE TABLE ledger_timeline (
            is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
            timeline integer,
            moved_to integer,
            moved_at timestamptz,
            heard_at timestamptz
        );
        INSERT INTO ledger_timeline (timeline) VALUES (current_timeline());
        GRANT SELECT ON ledger_timeline TO waypost_app;
        GRANT SELECT, UPDATE ON ledger_timeline TO waypost_settle;
        ALTER TABLE node ADD COLUMN timeline integer;
        UPDATE node SET timeline = current_timeline();
        """
    )


def downgrade() -> None:
    """Nobody notices any more when a standby is promoted."""
    op.execute("ALTER TABLE node DROP COLUMN timeline; DROP TABLE ledger_timeline; DROP FUNCTION current_timeline")
