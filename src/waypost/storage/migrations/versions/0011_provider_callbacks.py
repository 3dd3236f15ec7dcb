"""Callbacks of providers of jobs: that they came, for 90 days."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

_TABLES = """
CREATE TABLE provider_callback (
    provider text NOT NULL,
    event_key bytea NOT NULL CHECK (length(event_key) = 32),
    execution_id uuid NOT NULL,
    attempt smallint NOT NULL,
    received_at timestamptz NOT NULL,
    size_bytes integer NOT NULL CHECK (size_bytes >= 0),
    signature text NOT NULL CHECK (signature IN ('valid', 'invalid', 'absent')),
    PRIMARY KEY (provider, event_key)
);
CREATE INDEX provider_callback_received ON provider_callback (received_at);
GRANT SELECT, INSERT, DELETE ON provider_callback TO waypost_app;
"""


def upgrade() -> None:
    """Make the table. It has no organisation: only the system sees it."""
    op.execute(_TABLES)


def downgrade() -> None:
    """Forget which callbacks came."""
    op.execute("DROP TABLE provider_callback")
