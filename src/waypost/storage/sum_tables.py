"""What is left of months whose rows are gone (`retention`): sums that name no model, no provider and no request."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Date

from waypost.storage.columns import BOOKS, ID, METADATA, column

usage_day = sa.Table(
    "usage_day",
    METADATA,
    column("org_id", ID, BOOKS, primary_key=True),
    column("day", Date, BOOKS, primary_key=True),
    column("requests", BigInteger, BOOKS),
    column("input_tokens", BigInteger, BOOKS),
    column("output_tokens", BigInteger, BOOKS),
    column("images", BigInteger, BOOKS),
    column("duration_ms", BigInteger, BOOKS),
    column("characters", BigInteger, BOOKS),
    column("estimated", BigInteger, BOOKS),
    column("charge", BigInteger, BOOKS),  # less what was refunded
    column("refunded", BigInteger, BOOKS),
)

settled_sum = sa.Table(
    "settled_sum",
    METADATA,
    column("org_id", ID, BOOKS, primary_key=True),
    column("lease_id", ID, BOOKS, primary_key=True),  # nil: of attempts that were charged nothing
    column("charge", BigInteger, BOOKS),
    column("refunded", BigInteger, BOOKS),
    column("house", BigInteger, BOOKS),
    column("cogs", BigInteger, BOOKS),
)

TABLES = (usage_day, settled_sum)
