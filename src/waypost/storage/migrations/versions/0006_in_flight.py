"""How many requests of an organisation and of a key may be under way, where it is not what the settings say."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"

_BOUND = "ADD COLUMN in_flight_max bigint CHECK (in_flight_max > 0)"


def upgrade() -> None:
    op.execute(f"ALTER TABLE org {_BOUND}")
    op.execute(f"ALTER TABLE api_key {_BOUND}")


def downgrade() -> None:
    op.execute("ALTER TABLE org DROP COLUMN in_flight_max")
    op.execute("ALTER TABLE api_key DROP COLUMN in_flight_max")
