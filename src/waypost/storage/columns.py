"""What tables are made of: their common metadata, columns that say what privacy says of them, and types."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import DateTime
from sqlalchemy.dialects.postgresql import UUID

from waypost.privacy.data_map import DAYS_PER_YEAR, Anchor, Category, Erase, Purpose, Retention, personal

METADATA = sa.MetaData()
ID = UUID(as_uuid=True)
TIME = DateTime(timezone=True)
ACCOUNT_LIFE = Retention(Anchor.ENDED, days=30)
SEVEN_YEARS = Retention(Anchor.RECORDED, days=7 * DAYS_PER_YEAR + 2)
BOOKS = personal(
    Category.BILLING, Purpose.BILLING, Purpose.BOOKKEEPING, retention=SEVEN_YEARS, erase=Erase.PSEUDONYMISED
)


def column(name: str, kind: Any, info: dict[str, Any], **options: Any) -> sa.Column[Any]:
    """`info` is of `privacy.data_map.personal` or `impersonal`. Not null unless `nullable`."""
    return sa.Column(name, kind, info=info, nullable=options.pop("nullable", False), **options)
