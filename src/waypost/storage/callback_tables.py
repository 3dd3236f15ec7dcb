"""The table of providers' callbacks. Of a callback's body, or what its provider calls it, nothing is here."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Integer, LargeBinary, SmallInteger, Text

from waypost.privacy.data_map import Anchor, Category, Purpose, Retention, personal
from waypost.storage.columns import ID, METADATA, TIME, column

_AUDIT = personal(Category.AUDIT, Purpose.SECURITY, retention=Retention(Anchor.RECORDED, days=90))

provider_callback = sa.Table(
    "provider_callback",
    METADATA,
    column("provider", Text, _AUDIT, primary_key=True),
    column("event_key", LargeBinary, _AUDIT, primary_key=True),  # HMAC: what came twice is known, and nothing else
    column("execution_id", ID, _AUDIT),
    column("attempt", SmallInteger, _AUDIT),
    column("received_at", TIME, _AUDIT),
    column("size_bytes", Integer, _AUDIT),
    column("signature", Text, _AUDIT),
)

TABLES = (provider_callback,)
