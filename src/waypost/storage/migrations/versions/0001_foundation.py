"""Organisations, keys, catalogue versions, nodes, the books of money, and executions."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_MONEY = "bigint NOT NULL CHECK ({0} BETWEEN 0 AND 4000000000000000000)"
_UNITS = "\n".join(
    f"    {name}_tokens bigint NOT NULL CHECK ({name}_tokens >= 0),"
    for name in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
)

_ACCOUNTS = """
CREATE TABLE org (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    is_unlimited boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE api_key (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    name text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('full', 'execution')),
    requests_per_minute bigint CHECK (requests_per_minute > 0),
    tokens_per_minute bigint CHECK (tokens_per_minute > 0),
    models text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    valid_until timestamptz,
    version bigint NOT NULL UNIQUE
);
CREATE INDEX api_key_org ON api_key (org_id);
CREATE TABLE api_key_digest (
    digest bytea PRIMARY KEY CHECK (length(digest) = 32),
    api_key_id uuid NOT NULL REFERENCES api_key,
    org_id uuid NOT NULL,
    pepper_version smallint NOT NULL,
    prefix text NOT NULL,
    last_four text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    valid_until timestamptz
);
CREATE INDEX api_key_digest_key ON api_key_digest (api_key_id);
CREATE TABLE catalogue_version (
    version integer PRIMARY KEY,
    content_hash bytea NOT NULL,
    document jsonb NOT NULL,
    source text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""

# Room in each page for a row's next version: these rows change with every batch.
_BOOKS = f"""
CREATE TABLE node (
    id uuid PRIMARY KEY,
    epoch integer NOT NULL CHECK (epoch > 0),
    registered_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE wallet (
    org_id uuid PRIMARY KEY REFERENCES org,
    available {_MONEY.format("available")} DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE lease (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES wallet,
    node_id uuid NOT NULL REFERENCES node,
    node_epoch integer NOT NULL,
    granted {_MONEY.format("granted")},
    settled {_MONEY.format("settled")} DEFAULT 0,
    released {_MONEY.format("released")} DEFAULT 0,
    held_reported {_MONEY.format("held_reported")} DEFAULT 0,
    is_closed boolean NOT NULL DEFAULT false,
    granted_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT lease_within_grant CHECK (settled + released <= granted)
) WITH (fillfactor = 50);
CREATE INDEX lease_open ON lease (org_id) WHERE NOT is_closed;
CREATE TABLE topup (
    reference text PRIMARY KEY CHECK (length(reference) BETWEEN 1 AND 255),
    org_id uuid NOT NULL REFERENCES wallet,
    amount {_MONEY.format("amount")} CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX topup_org ON topup (org_id);
CREATE TABLE refund (
    attempt_id uuid NOT NULL,
    refund_key text NOT NULL CHECK (length(refund_key) BETWEEN 1 AND 255),
    org_id uuid NOT NULL REFERENCES wallet,
    amount {_MONEY.format("amount")} CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (attempt_id, refund_key)
);
CREATE INDEX refund_org ON refund (org_id);
CREATE TABLE settlement (
    attempt_id uuid PRIMARY KEY,
    execution_id uuid NOT NULL,
    org_id uuid NOT NULL,
    lease_id uuid NOT NULL,
    charge {_MONEY.format("charge")},
    house {_MONEY.format("house")},
    cogs {_MONEY.format("cogs")},
    refunded {_MONEY.format("refunded")} DEFAULT 0,
    price_version bigint NOT NULL,
{_UNITS}
    outcome smallint NOT NULL,
    is_estimated boolean NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    deployment text NOT NULL,
    CONSTRAINT settlement_refund_within_charge CHECK (refunded <= charge)
) PARTITION BY RANGE (attempt_id);
CREATE TABLE settlement_default PARTITION OF settlement DEFAULT;
"""

_EXECUTIONS = f"""
CREATE TABLE execution (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL,
    api_key_id uuid NOT NULL,
    accepted_at timestamptz NOT NULL,
    closed_at timestamptz NOT NULL,
    charge {_MONEY.format("charge")},
{_UNITS}
    first_content_ms bigint NOT NULL,
    attempts smallint NOT NULL,
    outcome smallint NOT NULL,
    status smallint NOT NULL,
    is_stream boolean NOT NULL,
    is_estimated boolean NOT NULL,
    model text NOT NULL,
    error_code text NOT NULL
) PARTITION BY RANGE (id);
CREATE TABLE execution_default PARTITION OF execution DEFAULT;
"""

_TENANT_TABLES = {
    "org": "id",
    "api_key": "org_id",
    "api_key_digest": "org_id",
    "wallet": "org_id",
    "lease": "org_id",
    "topup": "org_id",
    "refund": "org_id",
    "settlement": "org_id",
    "execution": "org_id",
}
_SETTLED_TABLES = ("wallet", "lease", "topup", "refund", "settlement", "execution")

# waypost_app sees one organisation in a transaction with waypost.org_id set, or all of them in the system's scope;
# it moves no money. waypost_settle keeps the books of all organisations and can do nothing else.
_RIGHTS = """
GRANT USAGE ON SCHEMA public TO waypost_app, waypost_settle;
GRANT SELECT ON org, api_key, api_key_digest, catalogue_version, node, wallet, lease, topup, refund, settlement,
    execution TO waypost_app;
GRANT INSERT, UPDATE ON org, api_key, api_key_digest TO waypost_app;
GRANT INSERT ON catalogue_version TO waypost_app;
GRANT INSERT (org_id) ON wallet TO waypost_app;
GRANT SELECT, INSERT, UPDATE ON node, lease TO waypost_settle;
GRANT SELECT, UPDATE (available) ON wallet TO waypost_settle;
GRANT SELECT, INSERT ON topup, refund, settlement, execution TO waypost_settle;
GRANT UPDATE (refunded) ON settlement TO waypost_settle;
"""


def upgrade() -> None:
    """Make everything, and let each role reach what it needs."""
    for statements in (_ACCOUNTS, _BOOKS, _EXECUTIONS, _RIGHTS):
        op.execute(statements)
    for table, owner_column in _TENANT_TABLES.items():
        op.execute(
            f"""
            ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON {table} TO waypost_app
                USING ({owner_column} = nullif(current_setting('waypost.org_id', true), '')::uuid);
            CREATE POLICY system ON {table} TO waypost_app, waypost_owner
                USING (current_setting('waypost.scope', true) = 'system');
            """
        )
    for table in _SETTLED_TABLES:
        op.execute(f"CREATE POLICY books ON {table} TO waypost_settle USING (true)")


def downgrade() -> None:
    """Remove everything, and every row with it."""
    op.execute(
        "DROP TABLE execution, settlement, refund, topup, lease, wallet, node, catalogue_version, api_key_digest,"
        " api_key, org"
    )
