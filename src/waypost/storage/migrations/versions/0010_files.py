"""Files of organisations: their rows, the room they take, who uploaded and deleted them, and objects to be erased."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

_TABLES = """
CREATE TABLE file (
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    state text NOT NULL CHECK (state IN ('PENDING', 'HELD', 'READY')),
    purpose text NOT NULL CHECK (purpose IN ('INPUT', 'UPLOAD', 'OUTPUT')),
    region text NOT NULL CHECK (region IN ('US', 'EU', 'APAC')),
    ttl_days smallint NOT NULL CHECK (ttl_days BETWEEN 1 AND 365),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    api_key_id uuid,
    execution_id uuid,
    output_index smallint,
    object_id uuid UNIQUE,
    data_key bytea CHECK (length(data_key) = 60),
    key_version integer,
    content_type text,
    size_bytes bigint CHECK (size_bytes > 0),
    sha256 bytea CHECK (length(sha256) = 32),
    width integer,
    height integer,
    UNIQUE (execution_id, output_index),
    CONSTRAINT file_output_of_execution CHECK ((purpose = 'OUTPUT') = (execution_id IS NOT NULL)
        AND (execution_id IS NULL) = (output_index IS NULL)),
    CONSTRAINT file_held_is_output CHECK (state <> 'HELD' OR purpose = 'OUTPUT'),
    CONSTRAINT file_content_unless_pending CHECK (
        num_nulls(object_id, data_key, key_version, content_type, size_bytes, sha256)
        = CASE WHEN state = 'PENDING' THEN 6 ELSE 0 END)
);
CREATE INDEX file_of_org ON file (org_id, id);
CREATE INDEX file_expiry ON file (expires_at);
CREATE INDEX file_key_version ON file (key_version);
CREATE TABLE file_storage (
    org_id uuid PRIMARY KEY REFERENCES org,
    bytes bigint NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    bytes_max bigint CHECK (bytes_max >= 0),
    ttl_days smallint CHECK (ttl_days BETWEEN 1 AND 365)
);
CREATE TABLE file_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org,
    file_id uuid NOT NULL,
    action text NOT NULL CHECK (action IN ('UPLOAD', 'DELETE', 'EXPIRE')),
    api_key_id uuid,
    source_ip text,
    created_at timestamptz NOT NULL
);
CREATE INDEX file_audit_of_org ON file_audit (org_id, id);
CREATE INDEX file_audit_created ON file_audit (created_at);
CREATE TABLE object_erasure (
    object_id uuid PRIMARY KEY,
    due_at timestamptz NOT NULL
);
CREATE INDEX object_erasure_due ON object_erasure (due_at);
"""

# An execution's end, which moves money, shows its outputs.
_RIGHTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON file, file_storage, object_erasure TO waypost_app;
GRANT SELECT, INSERT, DELETE ON file_audit TO waypost_app;
GRANT SELECT, UPDATE (state, expires_at) ON file TO waypost_settle;
"""


def upgrade() -> None:
    """Make the tables; of an organisation's own only it and the system see anything."""
    op.execute(_TABLES)
    op.execute(_RIGHTS)
    for table in ("file", "file_storage", "file_audit"):
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
    op.execute("CREATE POLICY books ON file TO waypost_settle USING (true)")


def downgrade() -> None:
    """Forget every file; the objects stay where they are, and nothing opens them any more."""
    op.execute("DROP TABLE object_erasure, file_audit, file_storage, file")
