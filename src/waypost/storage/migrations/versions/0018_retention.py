"""What stays of a month whose rows are over: what was used on each day, and what each lease was charged."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"

_COUNTS = ("requests", "input_tokens", "output_tokens", "images", "duration_ms", "characters", "estimated")
_SUMS = ("charge", "refunded", "house", "cogs")


def upgrade() -> None:
    """Empty; a gateway's keeper of partitions fills them as it drops months."""
    counts = ",\n    ".join(f"{name} bigint NOT NULL CHECK ({name} >= 0)" for name in (*_COUNTS, "charge", "refunded"))
    sums = ",\n    ".join(f"{name} bigint NOT NULL CHECK ({name} >= 0)" for name in _SUMS)
    op.execute(
        f"""
        CREATE TABLE usage_day (
            org_id uuid NOT NULL,
            day date NOT NULL,
            {counts},
            PRIMARY KEY (org_id, day)
        );
        CREATE TABLE settled_sum (
            org_id uuid NOT NULL,
            lease_id uuid NOT NULL,
            {sums},
            PRIMARY KEY (org_id, lease_id)
        );
        GRANT SELECT ON usage_day, settled_sum TO waypost_app;
        """
    )
    for table in ("usage_day", "settled_sum"):
        op.execute(
            f"""
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON {table} TO waypost_app
                USING (org_id = nullif(current_setting('waypost.org_id', true), '')::uuid);
            CREATE POLICY system ON {table} TO waypost_app, waypost_owner
                USING (current_setting('waypost.scope', true) = 'system');
            """
        )


def downgrade() -> None:
    """Forget the sums. What was dropped does not come back, so the books of such a database no longer add up."""
    op.execute("DROP TABLE settled_sum, usage_day")
