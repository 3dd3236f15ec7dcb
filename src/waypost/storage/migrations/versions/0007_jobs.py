"""The job queue: procrastinate's own tables, as its pinned version makes them."""

from __future__ import annotations

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0007"
down_revision = "0006"

# A later version of procrastinate brings migrations of its own; the revision that raises the pin runs them.
_GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers,
    procrastinate_workers TO waypost_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO waypost_app;
GRANT SELECT, INSERT ON procrastinate_jobs, procrastinate_events TO waypost_settle;
"""


def upgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    op.execute(_GRANTS)
