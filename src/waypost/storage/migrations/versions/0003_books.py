"""Suspense, lease states, the double-entry general ledger, budgets, long holds, chargebacks."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_MONEY = "bigint NOT NULL CHECK ({0} BETWEEN 0 AND 4000000000000000000)"

_LEASES = f"""
ALTER TABLE node
    ADD COLUMN recovered_before integer NOT NULL DEFAULT 0,
    ADD COLUMN retired_at timestamptz;
ALTER TABLE wallet
    ADD COLUMN suspense {_MONEY.format("suspense")} DEFAULT 0,
    ADD COLUMN receivable {_MONEY.format("receivable")} DEFAULT 0,
    ADD COLUMN is_suspended boolean NOT NULL DEFAULT false;
ALTER TABLE lease
    ADD COLUMN suspended {_MONEY.format("suspended")} DEFAULT 0,
    ADD COLUMN state text NOT NULL DEFAULT 'ACTIVE',
    ADD COLUMN is_recalled boolean NOT NULL DEFAULT false,
    ADD COLUMN orphaned_at timestamptz;
UPDATE lease SET state = 'CLOSED' WHERE is_closed;
ALTER TABLE lease
    DROP CONSTRAINT lease_within_grant,
    DROP COLUMN is_closed,
    ADD CONSTRAINT lease_state CHECK (state IN ('ACTIVE', 'DRAINING', 'CLOSED', 'ORPHANED')),
    ADD CONSTRAINT lease_within_grant CHECK (settled + released + suspended <= granted),
    ADD CONSTRAINT lease_suspended_when_orphaned CHECK (suspended = 0 OR state = 'ORPHANED');
CREATE INDEX lease_open ON lease (org_id) WHERE state <> 'CLOSED';
CREATE INDEX lease_of_node ON lease (node_id) WHERE state <> 'CLOSED';
"""  # noqa: S608 - put together from the text above

# Credit-normal kinds: wallet, lease, suspense, hold, payable, revenue. A transfer that is there stays as it is.
_GENERAL_LEDGER = f"""
CREATE TABLE account (
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 16),
    org_id uuid NOT NULL,
    debits {_MONEY.format("debits")} DEFAULT 0,
    credits {_MONEY.format("credits")} DEFAULT 0,
    PRIMARY KEY (kind, org_id),
    CONSTRAINT account_not_overdrawn CHECK (kind NOT IN (2, 3, 4, 5, 6, 7) OR credits >= debits),
    CONSTRAINT account_not_underdrawn CHECK (kind IN (2, 3, 4, 5, 6, 7) OR debits >= credits)
);
CREATE TABLE transfer (
    id uuid PRIMARY KEY,
    code smallint NOT NULL CHECK (code BETWEEN 1 AND 14),
    debit smallint NOT NULL CHECK (debit BETWEEN 1 AND 16),
    credit smallint NOT NULL CHECK (credit BETWEEN 1 AND 16),
    org_id uuid,
    ref uuid,
    amount {_MONEY.format("amount")} CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    batch bigint,
    CONSTRAINT transfer_between_two_accounts CHECK (debit <> credit)
);
CREATE INDEX transfer_unsealed ON transfer (id) WHERE batch IS NULL;
CREATE TABLE seal (
    batch bigint PRIMARY KEY,
    transfers bigint NOT NULL CHECK (transfers > 0),
    digest bytea NOT NULL CHECK (length(digest) = 32),
    sealed_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'transfer' THEN
        IF OLD.batch IS NULL AND NEW.batch IS NOT NULL
            AND (NEW.id, NEW.code, NEW.debit, NEW.credit, NEW.org_id, NEW.ref, NEW.amount, NEW.created_at)
                IS NOT DISTINCT FROM
                (OLD.id, OLD.code, OLD.debit, OLD.credit, OLD.org_id, OLD.ref, OLD.amount, OLD.created_at) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the general ledger is never changed' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER transfer_immutable BEFORE UPDATE OR DELETE ON transfer
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfer_kept BEFORE TRUNCATE ON transfer FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER seal_immutable BEFORE UPDATE OR DELETE ON seal FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""

_BUDGETS = f"""
CREATE TABLE project (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX project_org ON project (org_id);
ALTER TABLE api_key ADD COLUMN project_id uuid REFERENCES project;
CREATE TABLE budget (
    owner_id uuid NOT NULL,
    period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'lifetime')),
    org_id uuid NOT NULL REFERENCES org,
    owner_kind text NOT NULL CHECK (owner_kind IN ('organisation', 'project', 'key')),
    amount {_MONEY.format("amount")},
    PRIMARY KEY (owner_id, period)
);
CREATE INDEX budget_org ON budget (org_id);
CREATE TABLE budget_window (
    owner_id uuid NOT NULL,
    period text NOT NULL,
    starts_at timestamptz NOT NULL,
    org_id uuid NOT NULL REFERENCES org,
    taken {_MONEY.format("taken")} DEFAULT 0,
    PRIMARY KEY (owner_id, period, starts_at),
    FOREIGN KEY (owner_id, period) REFERENCES budget
) WITH (fillfactor = 50);
CREATE TABLE budget_draw (
    draw_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    period text NOT NULL,
    starts_at timestamptz NOT NULL,
    org_id uuid NOT NULL REFERENCES org,
    PRIMARY KEY (draw_id, owner_id, period),
    FOREIGN KEY (owner_id, period, starts_at) REFERENCES budget_window
);
"""

_HOLDS = f"""
CREATE TABLE long_hold (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES wallet,
    amount {_MONEY.format("amount")} CHECK (amount > 0),
    charge {_MONEY.format("charge")} DEFAULT 0,
    state text NOT NULL DEFAULT 'HELD' CHECK (state IN ('HELD', 'SETTLED', 'RELEASED')),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT long_hold_covers_charge CHECK (charge <= amount)
);
CREATE INDEX long_hold_org ON long_hold (org_id);
CREATE TABLE chargeback (
    reference text PRIMARY KEY CHECK (length(reference) BETWEEN 1 AND 255),
    topup_reference text NOT NULL REFERENCES topup,
    org_id uuid NOT NULL REFERENCES wallet,
    amount {_MONEY.format("amount")} CHECK (amount > 0),
    from_wallet {_MONEY.format("from_wallet")} CHECK (from_wallet <= amount),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX chargeback_org ON chargeback (org_id);
ALTER TABLE topup
    ADD COLUMN is_promo boolean NOT NULL DEFAULT false,
    ADD COLUMN reversed {_MONEY.format("reversed")} DEFAULT 0,
    ADD CONSTRAINT topup_reversed_at_most_once CHECK (reversed <= amount);
CREATE INDEX execution_of_org ON execution (org_id, id);
"""

# What the books of an earlier version hold becomes the opening entries; 1 cash, 2 wallet, 3 lease, 6 payable,
# 7 revenue, 8 cost of goods, 14 promo. Sums per row, so that each stands for one row of a sub-ledger.
_OPENING = """
SET LOCAL waypost.scope = 'system';
UPDATE topup SET is_promo = true WHERE reference LIKE 'house\\_%';
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 1, CASE WHEN is_promo THEN 14 ELSE 1 END, 2, org_id, NULL, amount FROM topup;
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 2, 2, 3, org_id, id, granted FROM lease WHERE granted > 0;
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 3, 3, 7, org_id, id, settled FROM lease WHERE settled > 0;
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 5, 3, 2, org_id, id, released FROM lease WHERE released > 0;
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 9, 7, 2, org_id, attempt_id, amount FROM refund;
INSERT INTO transfer (id, code, debit, credit, org_id, ref, amount)
SELECT gen_random_uuid(), 4,
       CASE WHEN outcome = 6 THEN 10 WHEN house > 0 THEN 12 WHEN outcome IN (2, 3) THEN 9 ELSE 8 END, 6, NULL, NULL,
       sum(cogs)::bigint
  FROM settlement GROUP BY 3 HAVING sum(cogs) > 0;
"""

_RIGHTS = """
GRANT SELECT ON account, transfer, seal, project, budget, budget_window, budget_draw, long_hold, chargeback
    TO waypost_app;
GRANT INSERT ON project, budget TO waypost_app;
GRANT SELECT, INSERT ON transfer, seal, budget_window, budget_draw, chargeback TO waypost_settle;
GRANT UPDATE (batch) ON transfer TO waypost_settle;
GRANT SELECT, INSERT, UPDATE ON account, long_hold TO waypost_settle;
GRANT UPDATE (taken) ON budget_window TO waypost_settle;
GRANT SELECT ON budget TO waypost_settle;
GRANT UPDATE (suspense, receivable, is_suspended) ON wallet TO waypost_settle;
GRANT UPDATE (reversed) ON topup TO waypost_settle;
"""

_TENANT_TABLES = (
    "account",
    "transfer",
    "project",
    "budget",
    "budget_window",
    "budget_draw",
    "long_hold",
    "chargeback",
)
_SETTLED_TABLES = ("account", "transfer", "budget", "budget_window", "budget_draw", "long_hold", "chargeback")


def upgrade() -> None:
    """Add the tables, and open the general ledger with what the books hold."""
    op.execute("SET LOCAL waypost.scope = 'system'")
    for statements in (_LEASES, _GENERAL_LEDGER, _BUDGETS, _HOLDS, _RIGHTS):
        op.execute(statements)
    for table in _TENANT_TABLES:
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
    for table in _SETTLED_TABLES:
        op.execute(f"CREATE POLICY books ON {table} TO waypost_settle USING (true)")
    op.execute(_OPENING)


def downgrade() -> None:
    """Remove what was added; leases that are orphaned stay open."""
    op.execute(
        """
        DROP TABLE chargeback, long_hold, budget_draw, budget_window, budget, seal, transfer, account;
        DROP FUNCTION refuse_change;
        ALTER TABLE api_key DROP COLUMN project_id;
        DROP TABLE project;
        DROP INDEX execution_of_org;
        ALTER TABLE topup DROP COLUMN is_promo, DROP COLUMN reversed;
        ALTER TABLE lease ADD COLUMN is_closed boolean NOT NULL DEFAULT false;
        UPDATE lease SET is_closed = state = 'CLOSED';
        ALTER TABLE lease DROP COLUMN suspended, DROP COLUMN state, DROP COLUMN is_recalled, DROP COLUMN orphaned_at,
            ADD CONSTRAINT lease_within_grant CHECK (settled + released <= granted);
        CREATE INDEX lease_open ON lease (org_id) WHERE NOT is_closed;
        ALTER TABLE wallet DROP COLUMN suspense, DROP COLUMN receivable, DROP COLUMN is_suspended;
        ALTER TABLE node DROP COLUMN recovered_before, DROP COLUMN retired_at;
        """
    )
