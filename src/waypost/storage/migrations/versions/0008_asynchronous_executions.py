"""Asynchronous executions, what they need of the settling role, and refunds of long holds."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

_MONEY = "bigint NOT NULL CHECK ({0} BETWEEN 0 AND 4000000000000000000)"

_TABLE = f"""
CREATE TABLE asynchronous_execution (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    api_key_id uuid NOT NULL,
    model text NOT NULL,
    modality text NOT NULL,
    state text NOT NULL DEFAULT 'RECEIVED' CHECK (state IN ('RECEIVED', 'SUBMITTING', 'SUBMIT_UNKNOWN', 'SUBMITTED',
        'RUNNING', 'REHOSTING', 'SUCCEEDED', 'FAILED', 'CANCELED', 'EXPIRED')),
    version integer NOT NULL DEFAULT 1,
    attempt smallint NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND 99),
    price_version bigint NOT NULL,
    estimate {_MONEY.format("estimate")},
    hold {_MONEY.format("hold")},
    accepted_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    cancel_requested_at timestamptz,
    error_code text NOT NULL DEFAULT '',
    mode text CHECK (mode IN ('sync', 'stream', 'poll', 'callback')),
    provider text,
    deployment text,
    provider_job text,
    credential bytea,
    polls integer NOT NULL DEFAULT 0,
    webhook_url text,
    sequence integer NOT NULL DEFAULT 0,
    output_files jsonb,
    result_until timestamptz,
    result_read_at timestamptz,
    CONSTRAINT asynchronous_execution_ended
        CHECK ((state IN ('SUCCEEDED', 'FAILED', 'CANCELED', 'EXPIRED')) = (ended_at IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX asynchronous_execution_of_org ON asynchronous_execution (org_id, id);
CREATE INDEX asynchronous_execution_open ON asynchronous_execution (expires_at) WHERE ended_at IS NULL;
CREATE FUNCTION refuse_second_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an execution that has ended is never changed' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER asynchronous_execution_end_is_final BEFORE UPDATE ON asynchronous_execution
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL AND (OLD.state, OLD.ended_at, OLD.error_code, OLD.hold)
                       IS DISTINCT FROM (NEW.state, NEW.ended_at, NEW.error_code, NEW.hold))
    EXECUTE FUNCTION refuse_second_end();
ALTER TABLE long_hold
    ADD COLUMN refunded {_MONEY.format("refunded")} DEFAULT 0,
    ADD CONSTRAINT long_hold_refunded_at_most_once CHECK (refunded <= charge);
"""

_RIGHTS = """
GRANT SELECT ON asynchronous_execution TO waypost_app;
GRANT SELECT, INSERT, UPDATE ON asynchronous_execution TO waypost_settle;
GRANT SELECT, INSERT, UPDATE ON idempotency_key TO waypost_settle;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO waypost_settle;
ALTER TABLE asynchronous_execution ENABLE ROW LEVEL SECURITY;
ALTER TABLE asynchronous_execution FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON asynchronous_execution TO waypost_app
    USING (org_id = nullif(current_setting('waypost.org_id', true), '')::uuid);
CREATE POLICY system ON asynchronous_execution TO waypost_app, waypost_owner
    USING (current_setting('waypost.scope', true) = 'system');
CREATE POLICY books ON asynchronous_execution TO waypost_settle USING (true);
CREATE POLICY books ON idempotency_key TO waypost_settle USING (true);
"""


def upgrade() -> None:
    """Add the table; its end and the books' side of it are one transaction, so the settling role writes both."""
    op.execute(_TABLE)
    op.execute(_RIGHTS)


def downgrade() -> None:
    """Forget the executions; what they were charged stays in the books."""
    op.execute(
        """
        DROP POLICY books ON idempotency_key;
        REVOKE ALL ON idempotency_key FROM waypost_settle;
        DROP TABLE asynchronous_execution;
        DROP FUNCTION refuse_second_end;
        ALTER TABLE long_hold DROP COLUMN refunded;
        """
    )
