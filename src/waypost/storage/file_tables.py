"""Tables of files. Neither a file's name nor its content is here, and without its key its object cannot be read."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Integer, LargeBinary, SmallInteger, Text

from waypost.privacy.data_map import DAYS_PER_YEAR, Anchor, Category, Export, Purpose, Retention, impersonal, personal
from waypost.storage.columns import ACCOUNT_LIFE, ID, METADATA, TIME, column

_FILE = personal(Category.FILE, Purpose.SERVICE, retention=Retention(Anchor.RECORDED, days=DAYS_PER_YEAR))
_FILE_KEY = personal(Category.CREDENTIAL, Purpose.SECURITY, retention=ACCOUNT_LIFE, export=Export.SECRET)
_STORAGE = personal(Category.ORGANISATION, Purpose.SERVICE, retention=ACCOUNT_LIFE)
_AUDIT = personal(Category.AUDIT, Purpose.SECURITY, retention=Retention(Anchor.RECORDED, days=90))
_OPERATION = impersonal(Category.OPERATION)

file = sa.Table(
    "file",
    METADATA,
    column("id", ID, _FILE, primary_key=True),
    column("org_id", ID, _FILE),
    column("state", Text, _FILE),
    column("purpose", Text, _FILE),
    column("region", Text, _FILE),
    column("ttl_days", SmallInteger, _FILE),
    column("created_at", TIME, _FILE),
    column("expires_at", TIME, _FILE),
    column("api_key_id", ID, _FILE, nullable=True),
    column("execution_id", ID, _FILE, nullable=True),
    column("output_index", SmallInteger, _FILE, nullable=True),
    column("object_id", ID, _FILE, nullable=True),
    column("data_key", LargeBinary, _FILE_KEY, nullable=True),  # wrapped by a key outside the database
    column("key_version", Integer, _FILE, nullable=True),
    column("content_type", Text, _FILE, nullable=True),
    column("size_bytes", BigInteger, _FILE, nullable=True),
    column("sha256", LargeBinary, _FILE, nullable=True),
    column("width", Integer, _FILE, nullable=True),
    column("height", Integer, _FILE, nullable=True),
    column("duration_ms", Integer, _FILE, nullable=True),
)

file_storage = sa.Table(
    "file_storage",
    METADATA,
    column("org_id", ID, _STORAGE, primary_key=True),
    column("bytes", BigInteger, _STORAGE, server_default="0"),
    column("bytes_max", BigInteger, _STORAGE, nullable=True),  # NULL: as the settings say; so below
    column("ttl_days", SmallInteger, _STORAGE, nullable=True),
)

file_audit = sa.Table(
    "file_audit",
    METADATA,
    column("id", BigInteger, _AUDIT, primary_key=True),
    column("org_id", ID, _AUDIT),
    column("file_id", ID, _AUDIT),
    column("action", Text, _AUDIT),
    column("api_key_id", ID, _AUDIT, nullable=True),  # NULL: the file expired
    column("source_ip", Text, _AUDIT, nullable=True),
    column("created_at", TIME, _AUDIT),
)

# Objects of the file store that no file has any more, or not yet. An object's id says nothing of whose it was.
object_erasure = sa.Table(
    "object_erasure",
    METADATA,
    column("object_id", ID, _OPERATION, primary_key=True),
    column("due_at", TIME, _OPERATION),
)

TABLES = (file, file_storage, file_audit, object_erasure)
