"""Idempotency keys of inference calls."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table; a claim and its release are the application's own."""
    op.execute(
        """
        CREATE TABLE idempotency_key (
            org_id uuid NOT NULL REFERENCES org,
            endpoint text NOT NULL,
            key_digest bytea NOT NULL CHECK (length(key_digest) = 32),
            fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
            execution_id uuid NOT NULL,
            node_id uuid NOT NULL,
            node_epoch integer NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (org_id, endpoint, key_digest)
        );
        CREATE INDEX idempotency_key_created ON idempotency_key (created_at);
        CREATE INDEX idempotency_key_execution ON idempotency_key (execution_id);
        GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_key TO waypost_app;
        ALTER TABLE idempotency_key ENABLE ROW LEVEL SECURITY;
        ALTER TABLE idempotency_key FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant ON idempotency_key TO waypost_app
            USING (org_id = nullif(current_setting('waypost.org_id', true), '')::uuid);
        CREATE POLICY system ON idempotency_key TO waypost_app, waypost_owner
            USING (current_setting('waypost.scope', true) = 'system');
        """
    )


def downgrade() -> None:
    """Forget every key."""
    op.execute("DROP TABLE idempotency_key")
