"""Webhooks: endpoints, an organisation's own secret for URLs of requests, and deliveries, which are the queue."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

_TABLES = """
CREATE TABLE webhook_endpoint (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    url text NOT NULL CHECK (length(url) BETWEEN 1 AND 8192),
    description text NOT NULL CHECK (length(description) <= 500),
    events text[] NOT NULL,
    state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'PAUSED', 'FAILING', 'GONE')),
    state_since timestamptz NOT NULL DEFAULT now(),
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_until timestamptz,
    headers bytea,
    header_names text[] NOT NULL,
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    last_success_at timestamptz,
    last_failure_at timestamptz,
    last_failure text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);
CREATE INDEX webhook_endpoint_org ON webhook_endpoint (org_id, id);

CREATE TABLE webhook_secret (
    org_id uuid PRIMARY KEY REFERENCES org,
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);

CREATE TABLE webhook_delivery (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    endpoint_id uuid,
    url text CHECK (length(url) BETWEEN 1 AND 8192),
    lane uuid NOT NULL,
    event_id uuid NOT NULL,
    event text NOT NULL,
    execution_id uuid,
    sequence integer NOT NULL,
    facts jsonb,
    state text NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'DEAD')),
    attempts integer NOT NULL DEFAULT 0,
    retries integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    first_attempt_at timestamptz,
    ended_at timestamptz,
    last_status smallint,
    last_error text,
    last_took_ms integer,
    reason text,
    CHECK ((endpoint_id IS NULL) <> (url IS NULL)),
    CHECK ((state = 'PENDING') = (ended_at IS NULL)),
    CHECK ((state = 'DEAD') = (reason IS NOT NULL))
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (due_at) WHERE state = 'PENDING';
CREATE INDEX webhook_delivery_pending ON webhook_delivery (lane) WHERE state = 'PENDING';
CREATE INDEX webhook_delivery_dead ON webhook_delivery (lane, id) WHERE state = 'DEAD';
CREATE INDEX webhook_delivery_org ON webhook_delivery (org_id, id);
CREATE INDEX webhook_delivery_execution ON webhook_delivery (execution_id);
CREATE INDEX webhook_delivery_ended ON webhook_delivery (ended_at) WHERE state <> 'PENDING';
"""

# Who ends an execution keeps the books, and announces it in the same transaction: it may say so and see nothing more.
_RIGHTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoint, webhook_secret, webhook_delivery TO waypost_app;
GRANT SELECT (id, org_id, state, events) ON webhook_endpoint TO waypost_settle;
GRANT INSERT ON webhook_delivery TO waypost_settle;
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(_TABLES)
    op.execute(_RIGHTS)
    for table in ("webhook_endpoint", "webhook_secret", "webhook_delivery"):
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
    op.execute("CREATE POLICY books ON webhook_endpoint FOR SELECT TO waypost_settle USING (true)")
    op.execute("CREATE POLICY books ON webhook_delivery FOR INSERT TO waypost_settle WITH CHECK (true)")


def downgrade() -> None:
    """Forget every endpoint and delivery."""
    op.execute("DROP TABLE webhook_delivery, webhook_secret, webhook_endpoint")
