"""What tables are made of: their common metadata, columns that say what privacy says of them, and types."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import DateTime
from sqlalchemy.dialects.postgresql import UUID

from waypost.privacy.data_map import Anchor, Retention

METADATA = sa.MetaData()
ID = UUID(as_uuid=True)
TIME = DateTime(timezone=True)
ACCOUNT_LIFE = Retention(Anchor.ENDED, days=30)


def column(name: str, kind: Any, info: dict[str, Any], **options: Any) -> sa.Column[Any]:
    """`info` is of `privacy.data_map.personal` or `impersonal`. Not null unless `nullable`."""
    return sa.Column(name, kind, info=info, nullable=options.pop("nullable", False), **options)
