"""Providers' bills: the lines imported, the corrections that follow, and the names of answers to match them by."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_MONEY = "bigint NOT NULL CHECK ({0} BETWEEN 0 AND 4000000000000000000)"

_TABLES = f"""
ALTER TABLE settlement ADD COLUMN answer uuid;
CREATE TABLE provider_bill_line (
    provider text NOT NULL,
    key uuid NOT NULL,
    day date NOT NULL,
    model text NOT NULL,
    amount {_MONEY.format("amount")},
    answer uuid,
    imported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, key)
);
CREATE INDEX provider_bill_line_group ON provider_bill_line (provider, model, day);
CREATE TABLE cost_correction (
    subject uuid NOT NULL,
    kind smallint NOT NULL,
    provider text NOT NULL,
    day date NOT NULL,
    model text NOT NULL,
    raised {_MONEY.format("raised")},
    lowered {_MONEY.format("lowered")},
    corrected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, kind),
    CONSTRAINT cost_correction_one_way CHECK (raised = 0 OR lowered = 0)
);
CREATE INDEX cost_correction_group ON cost_correction (provider, model, day);
"""

# 17 is what providers bill for nothing that the books know.
_ACCOUNTS = """
ALTER TABLE account DROP CONSTRAINT account_kind_check, ADD CHECK (kind BETWEEN 1 AND 17);
ALTER TABLE transfer
    DROP CONSTRAINT transfer_debit_check, ADD CHECK (debit BETWEEN 1 AND 17),
    DROP CONSTRAINT transfer_credit_check, ADD CHECK (credit BETWEEN 1 AND 17);
"""

_RIGHTS = """
GRANT SELECT ON provider_bill_line, cost_correction TO waypost_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_bill_line, cost_correction TO waypost_settle;
"""


def upgrade() -> None:
    """Add the tables, the account, and the column."""
    for statements in (_TABLES, _ACCOUNTS, _RIGHTS):
        op.execute(statements)


def downgrade() -> None:
    """Remove them; transfers to the account stay, and so does its number."""
    op.execute("DROP TABLE cost_correction, provider_bill_line; ALTER TABLE settlement DROP COLUMN answer")
