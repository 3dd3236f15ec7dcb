"""URLs of receivers are sealed: their text is longer so, and those that are not yet are found without a search.

Rows are not rewritten here, as a migration has no secrets: the control process does it when it starts.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

_COLUMNS = (("webhook_endpoint", "url"), ("webhook_delivery", "url"), ("asynchronous_execution", "webhook_url"))
_CHARACTERS_MAX = 12_288  # 2,048 characters of four bytes, sealed, in base64


def upgrade() -> None:
    """Let the columns hold sealed URLs."""
    for table, column in _COLUMNS[:2]:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_{column}_check")
        op.execute(f"ALTER TABLE {table} ADD CHECK (length({column}) BETWEEN 1 AND {_CHARACTERS_MAX})")
    for table, column in _COLUMNS:
        op.execute(f"CREATE INDEX {table}_plain_{column} ON {table} (id) WHERE {column} NOT LIKE 'sealed:%'")


def downgrade() -> None:
    """As before; what is sealed stays so, and cannot be sent to by what came before."""
    for table, column in _COLUMNS:
        op.execute(f"DROP INDEX {table}_plain_{column}")
