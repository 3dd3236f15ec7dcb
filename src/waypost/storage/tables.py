"""Every table of the product, each column with what privacy says of it.

Ids are UUIDs made by us (`kit.ids`), money is whole nano-USD in `bigint`, times are `timestamptz`. The revisions in
`migrations/` make these tables; a test holds both to each other.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Date, Integer, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from waypost.privacy.data_map import (
    DAYS_PER_YEAR,
    Anchor,
    Category,
    Column,
    DataMap,
    Export,
    ExternalTable,
    Purpose,
    Retention,
    impersonal,
    personal,
)
from waypost.storage import callback_tables, columns, file_tables, sum_tables

_ACCOUNT_LIFE = columns.ACCOUNT_LIFE
_TWELVE_MONTHS = Retention(Anchor.RECORDED, days=DAYS_PER_YEAR)
_THIRTY_DAYS = Retention(Anchor.RECORDED, days=30)
_ONE_DAY = Retention(Anchor.RECORDED, days=1)

_ORGANISATION = personal(Category.ORGANISATION, Purpose.SERVICE, retention=_ACCOUNT_LIFE)
_KEY = personal(Category.CREDENTIAL, Purpose.SERVICE, Purpose.SECURITY, retention=_ACCOUNT_LIFE)
_KEY_DIGEST = personal(Category.CREDENTIAL, Purpose.SECURITY, retention=_ACCOUNT_LIFE, export=Export.SECRET)
_EXECUTION = personal(Category.EXECUTION_METADATA, Purpose.SERVICE, Purpose.BILLING, retention=_TWELVE_MONTHS)
# Which provider answered stays invisible in the product, but not to a person who asks who received their data.
_RECIPIENT = personal(Category.RECIPIENT, Purpose.BILLING, retention=_TWELVE_MONTHS, export=Export.ON_VERIFIED_REQUEST)
_BALANCE = personal(Category.ORGANISATION, Purpose.BILLING, retention=_ACCOUNT_LIFE)
_LEASE = personal(Category.EXECUTION_METADATA, Purpose.BILLING, retention=_TWELVE_MONTHS)
_BOOKS = columns.BOOKS
_CLAIM = personal(Category.EXECUTION_METADATA, Purpose.SERVICE, retention=_ONE_DAY)
_ENDPOINT = personal(Category.ORGANISATION, Purpose.SERVICE, retention=_ACCOUNT_LIFE)
_ENDPOINT_SECRET = personal(Category.CREDENTIAL, Purpose.SECURITY, retention=_ACCOUNT_LIFE, export=Export.SECRET)
_DELIVERY = personal(Category.EXECUTION_METADATA, Purpose.SERVICE, retention=_THIRTY_DAYS)
_CONFIGURATION = impersonal(Category.CONFIGURATION)
_OPERATION = impersonal(Category.OPERATION)

_ID, _TIME, _column = columns.ID, columns.TIME, columns.column
METADATA = columns.METADATA
# Tables that stand in modules of their own.
ELSEWHERE = (*file_tables.TABLES, *callback_tables.TABLES, *sum_tables.TABLES)


def _units(info: dict[str, Any]) -> list[sa.Column[Any]]:
    """The disjoint classes of `wire.canonical.Usage`, and reasoning as a part of output. Those that few calls have
    are NULL where they are zero, which takes no room."""
    names = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
    rare = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "images", "duration_ms", "characters")
    return [
        *(_column(f"{name}_tokens", BigInteger, info) for name in names),
        *(_column(name, BigInteger, info, nullable=True) for name in rare),
    ]


org = sa.Table(
    "org",
    METADATA,
    _column("id", _ID, _ORGANISATION, primary_key=True),
    _column("name", Text, _ORGANISATION),
    _column("in_flight_max", BigInteger, _ORGANISATION, nullable=True),
    _column("is_unlimited", Boolean, _ORGANISATION),  # holds against a credit of the house, and is not billed
    _column("created_at", _TIME, _ORGANISATION, server_default=sa.func.now()),
)

api_key = sa.Table(
    "api_key",
    METADATA,
    _column("id", _ID, _KEY, primary_key=True),
    _column("org_id", _ID, _KEY),
    _column("name", Text, _KEY),
    _column("scope", Text, _KEY),
    _column("requests_per_minute", BigInteger, _KEY, nullable=True),
    _column("tokens_per_minute", BigInteger, _KEY, nullable=True),
    _column("in_flight_max", BigInteger, _KEY, nullable=True),
    _column("models", ARRAY(Text), _KEY, nullable=True),
    _column("created_at", _TIME, _KEY, server_default=sa.func.now()),
    _column("valid_until", _TIME, _KEY, nullable=True),
    _column("version", BigInteger, _KEY),  # of the newest change; see storage.api_keys
    _column("project_id", _ID, _KEY, nullable=True),
)

project = sa.Table(
    "project",
    METADATA,
    _column("id", _ID, _ORGANISATION, primary_key=True),
    _column("org_id", _ID, _ORGANISATION),
    _column("name", Text, _ORGANISATION),
    _column("created_at", _TIME, _ORGANISATION, server_default=sa.func.now()),
)

# What an organisation, a project or a key may spend in each day, week or month of UTC, or ever.
budget = sa.Table(
    "budget",
    METADATA,
    _column("owner_id", _ID, _BALANCE, primary_key=True),
    _column("period", Text, _BALANCE, primary_key=True),
    _column("org_id", _ID, _BALANCE),
    _column("owner_kind", Text, _BALANCE),
    _column("amount", BigInteger, _BALANCE),
)

budget_window = sa.Table(
    "budget_window",
    METADATA,
    _column("owner_id", _ID, _BALANCE, primary_key=True),
    _column("period", Text, _BALANCE, primary_key=True),
    _column("starts_at", _TIME, _BALANCE, primary_key=True),
    _column("org_id", _ID, _BALANCE),
    _column("taken", BigInteger, _BALANCE, server_default="0"),  # granted to leases and holds, less what came back
)

# The windows that a lease or a long hold was cut for: what comes back goes to the same ones.
budget_draw = sa.Table(
    "budget_draw",
    METADATA,
    _column("draw_id", _ID, _LEASE, primary_key=True),
    _column("owner_id", _ID, _LEASE, primary_key=True),
    _column("period", Text, _LEASE, primary_key=True),
    _column("starts_at", _TIME, _LEASE),
    _column("org_id", _ID, _LEASE),
)

# A key has one digest, for an hour after a rotation that of its text before too, and of each text one for each pepper
# under which it has been used.
api_key_digest = sa.Table(
    "api_key_digest",
    METADATA,
    _column("digest", LargeBinary, _KEY_DIGEST, primary_key=True),
    _column("api_key_id", _ID, _KEY),
    _column("org_id", _ID, _KEY),
    _column("pepper_version", SmallInteger, _KEY),
    _column("prefix", Text, _KEY),
    _column("last_four", Text, _KEY),
    _column("created_at", _TIME, _KEY, server_default=sa.func.now()),
    _column("valid_until", _TIME, _KEY, nullable=True),
)

catalogue_version = sa.Table(
    "catalogue_version",
    METADATA,
    _column("version", Integer, _CONFIGURATION, primary_key=True, autoincrement=False),
    _column("content_hash", LargeBinary, _CONFIGURATION),
    _column("document", JSONB, _CONFIGURATION),
    _column("source", Text, _CONFIGURATION),
    _column("applied_at", _TIME, _CONFIGURATION, server_default=sa.func.now()),
)

node = sa.Table(
    "node",
    METADATA,
    _column("id", _ID, _OPERATION, primary_key=True),
    _column("epoch", Integer, _OPERATION),
    _column("registered_at", _TIME, _OPERATION, server_default=sa.func.now()),
    _column("heartbeat_at", _TIME, _OPERATION, server_default=sa.func.now()),
    _column("recovered_before", Integer, _OPERATION, server_default="0"),  # epochs whose journal is booked, or lost
    _column("retired_at", _TIME, _OPERATION, nullable=True),
    _column("timeline", Integer, _OPERATION, nullable=True),  # of the server, when it last presented its leases
)

# One row: where the books were last found whole, and the move of the server that nodes still make good.
ledger_timeline = sa.Table(
    "ledger_timeline",
    METADATA,
    _column("is_only", Boolean, _OPERATION, primary_key=True, server_default="true"),
    _column("timeline", Integer, _OPERATION, nullable=True),
    _column("moved_to", Integer, _OPERATION, nullable=True),
    _column("moved_at", _TIME, _OPERATION, nullable=True),
    _column("heard_at", _TIME, _OPERATION, nullable=True),  # the newest heartbeat that had come before the move
)

wallet = sa.Table(
    "wallet",
    METADATA,
    _column("org_id", _ID, _BALANCE, primary_key=True),
    _column("available", BigInteger, _BALANCE, server_default="0"),
    _column("suspense", BigInteger, _BALANCE, server_default="0"),  # rests of leases whose node is lost
    _column("receivable", BigInteger, _BALANCE, server_default="0"),  # charged back when it was spent already
    _column("is_suspended", Boolean, _BALANCE, server_default="false"),
)

lease = sa.Table(
    "lease",
    METADATA,
    _column("id", _ID, _LEASE, primary_key=True),
    _column("org_id", _ID, _LEASE),
    _column("node_id", _ID, _OPERATION),
    _column("node_epoch", Integer, _OPERATION),
    _column("granted", BigInteger, _LEASE),
    _column("settled", BigInteger, _LEASE, server_default="0"),
    _column("released", BigInteger, _LEASE, server_default="0"),
    _column("held_reported", BigInteger, _LEASE, server_default="0"),
    _column("granted_at", _TIME, _LEASE, server_default=sa.func.now()),
    _column("suspended", BigInteger, _LEASE, server_default="0"),  # of an orphaned one: its rest, in suspense
    _column("state", Text, _LEASE, server_default="ACTIVE"),
    _column("is_recalled", Boolean, _LEASE, server_default="false"),  # somebody else needs what is free of it
    _column("orphaned_at", _TIME, _OPERATION, nullable=True),
)

long_hold = sa.Table(
    "long_hold",
    METADATA,
    _column("id", _ID, _LEASE, primary_key=True),
    _column("org_id", _ID, _LEASE),
    _column("amount", BigInteger, _LEASE),
    _column("charge", BigInteger, _LEASE, server_default="0"),
    _column("state", Text, _LEASE, server_default="HELD"),
    _column("created_at", _TIME, _LEASE, server_default=sa.func.now()),
    _column("ended_at", _TIME, _LEASE, nullable=True),
    _column("refunded", BigInteger, _LEASE, server_default="0"),  # of the charge
)

# The general ledger. It names no model, no provider and no person. The house's accounts have the nil UUID.
account = sa.Table(
    "account",
    METADATA,
    _column("kind", SmallInteger, _BOOKS, primary_key=True, autoincrement=False),
    _column("org_id", _ID, _BOOKS, primary_key=True),
    _column("debits", BigInteger, _BOOKS, server_default="0"),  # of what is sealed
    _column("credits", BigInteger, _BOOKS, server_default="0"),
)

transfer = sa.Table(
    "transfer",
    METADATA,
    _column("id", _ID, _BOOKS, primary_key=True),
    _column("code", SmallInteger, _BOOKS),
    _column("debit", SmallInteger, _BOOKS),  # ledger.account.AccountKind
    _column("credit", SmallInteger, _BOOKS),
    _column("org_id", _ID, _BOOKS, nullable=True),  # of both accounts, as far as they belong to one
    _column("ref", _ID, _BOOKS, nullable=True),  # the lease, hold or attempt
    _column("amount", BigInteger, _BOOKS),
    _column("created_at", _TIME, _BOOKS, server_default=sa.func.now()),
    _column("batch", BigInteger, _OPERATION, nullable=True),  # the seal that covers it
)

seal = sa.Table(
    "seal",
    METADATA,
    _column("batch", BigInteger, _OPERATION, primary_key=True, autoincrement=False),
    _column("transfers", BigInteger, _OPERATION),
    _column("digest", LargeBinary, _OPERATION),  # SHA-256 over the digest before it and its transfers
    _column("sealed_at", _TIME, _OPERATION, server_default=sa.func.now()),
)

topup = sa.Table(
    "topup",
    METADATA,
    _column("reference", Text, _BOOKS, primary_key=True),
    _column("org_id", _ID, _BOOKS),
    _column("amount", BigInteger, _BOOKS),
    _column("created_at", _TIME, _BOOKS, server_default=sa.func.now()),
    _column("is_promo", Boolean, _BOOKS, server_default="false"),  # credit that nobody paid for
    _column("reversed", BigInteger, _BOOKS, server_default="0"),  # charged back
)

chargeback = sa.Table(
    "chargeback",
    METADATA,
    _column("reference", Text, _BOOKS, primary_key=True),
    _column("topup_reference", Text, _BOOKS),
    _column("org_id", _ID, _BOOKS),
    _column("amount", BigInteger, _BOOKS),
    _column("from_wallet", BigInteger, _BOOKS),  # the rest is owed
    _column("created_at", _TIME, _BOOKS, server_default=sa.func.now()),
)

refund = sa.Table(
    "refund",
    METADATA,
    _column("attempt_id", _ID, _BOOKS, primary_key=True),
    _column("refund_key", Text, _BOOKS, primary_key=True),
    _column("org_id", _ID, _BOOKS),
    _column("amount", BigInteger, _BOOKS),
    _column("created_at", _TIME, _BOOKS, server_default=sa.func.now()),
)

# One row per attempt. Partitioned by month of the attempt's id; charge + house = what the attempt was worth.
settlement = sa.Table(
    "settlement",
    METADATA,
    _column("attempt_id", _ID, _EXECUTION, primary_key=True),
    _column("execution_id", _ID, _EXECUTION),
    _column("org_id", _ID, _EXECUTION),
    _column("lease_id", _ID, _EXECUTION),
    _column("charge", BigInteger, _EXECUTION),  # the customer paid
    _column("house", BigInteger, _EXECUTION),  # no lease covered it any more, so the house bears it
    _column("cogs", BigInteger, _EXECUTION),  # the provider bills
    _column("refunded", BigInteger, _EXECUTION, server_default="0"),  # of the charge
    _column("price_version", BigInteger, _EXECUTION),
    *_units(_EXECUTION),
    _column("outcome", SmallInteger, _EXECUTION),
    _column("is_estimated", Boolean, _EXECUTION),
    _column("model", Text, _EXECUTION),
    _column("provider", Text, _RECIPIENT),
    _column("deployment", Text, _RECIPIENT),
    _column("answer", _ID, _RECIPIENT, nullable=True),  # digest of the provider's name for its answer
    postgresql_partition_by="RANGE (attempt_id)",
)

# What a provider bills, as its file said: one request, or the sum of a model's day.
provider_bill_line = sa.Table(
    "provider_bill_line",
    METADATA,
    _column("provider", Text, _RECIPIENT, primary_key=True),
    _column("key", _ID, _RECIPIENT, primary_key=True),
    _column("day", Date, _RECIPIENT),
    _column("model", Text, _RECIPIENT),
    _column("amount", BigInteger, _RECIPIENT),
    _column("answer", _ID, _RECIPIENT, nullable=True),
    _column("imported_at", _TIME, _RECIPIENT, server_default=sa.func.now()),
)

# What an attempt, or a model's day, costs more or less than was booked.
cost_correction = sa.Table(
    "cost_correction",
    METADATA,
    _column("subject", _ID, _RECIPIENT, primary_key=True),  # the attempt, or a digest of provider, day and model
    _column("kind", SmallInteger, _RECIPIENT, primary_key=True, autoincrement=False),  # ledger.account.AccountKind
    _column("provider", Text, _RECIPIENT),
    _column("day", Date, _RECIPIENT),
    _column("model", Text, _RECIPIENT),
    _column("raised", BigInteger, _RECIPIENT),
    _column("lowered", BigInteger, _RECIPIENT),
    _column("corrected_at", _TIME, _RECIPIENT, server_default=sa.func.now()),
)

# One row per accepted request. It never names a provider: what stands here, its owner sees.
execution = sa.Table(
    "execution",
    METADATA,
    _column("id", _ID, _EXECUTION, primary_key=True),
    _column("org_id", _ID, _EXECUTION, primary_key=True),
    _column("api_key_id", _ID, _EXECUTION),
    _column("accepted_at", _TIME, _EXECUTION),
    _column("closed_at", _TIME, _EXECUTION),
    _column("charge", BigInteger, _EXECUTION),
    _column("price_version", BigInteger, _EXECUTION, nullable=True),  # NULL: of before it was kept here
    *_units(_EXECUTION),
    _column("first_content_ms", BigInteger, _EXECUTION),
    _column("attempts", SmallInteger, _EXECUTION),
    _column("outcome", SmallInteger, _EXECUTION),
    _column("status", SmallInteger, _EXECUTION),
    _column("is_stream", Boolean, _EXECUTION),
    _column("is_estimated", Boolean, _EXECUTION),
    _column("model", Text, _EXECUTION),
    _column("error_code", Text, _EXECUTION),
    postgresql_partition_by="RANGE (id)",
)

# An execution that its caller does not wait for, from its acceptance on; see executions.lifecycle. Input, text output
# and the caller's metadata are in the vault and nowhere here.
asynchronous_execution = sa.Table(
    "asynchronous_execution",
    METADATA,
    _column("id", _ID, _EXECUTION, primary_key=True),
    _column("org_id", _ID, _EXECUTION),
    _column("api_key_id", _ID, _EXECUTION),
    _column("model", Text, _EXECUTION),
    _column("modality", Text, _EXECUTION),
    _column("state", Text, _EXECUTION, server_default="RECEIVED"),
    _column("version", Integer, _EXECUTION, server_default="1"),  # grows with every step: who knows an old one loses
    _column("attempt", SmallInteger, _EXECUTION, server_default="0"),
    _column("price_version", BigInteger, _EXECUTION),
    _column("estimate", BigInteger, _EXECUTION),
    _column("hold", BigInteger, _EXECUTION),
    _column("accepted_at", _TIME, _EXECUTION),
    _column("expires_at", _TIME, _EXECUTION),
    _column("started_at", _TIME, _EXECUTION, nullable=True),
    _column("ended_at", _TIME, _EXECUTION, nullable=True),
    _column("cancel_requested_at", _TIME, _EXECUTION, nullable=True),
    _column("error_code", Text, _EXECUTION, server_default=""),
    _column("mode", Text, _EXECUTION, nullable=True),
    _column("provider", Text, _RECIPIENT, nullable=True),
    _column("deployment", Text, _RECIPIENT, nullable=True),
    _column("catalogue_version", BigInteger, _EXECUTION, nullable=True),  # that its job was submitted under
    _column("provider_job", Text, _RECIPIENT, nullable=True),  # the provider's name for its job
    _column("credential", LargeBinary, _RECIPIENT, nullable=True),  # digest of the key that submitted it
    _column("polls", Integer, _EXECUTION, server_default="0"),
    _column("webhook_url", Text, _EXECUTION, nullable=True),  # sealed: see webhooks.sealed
    _column("sequence", Integer, _EXECUTION, server_default="0"),  # of what was announced of it
    _column("output_files", JSONB, _EXECUTION, nullable=True),  # ids, types and measures
    _column("result_until", _TIME, _EXECUTION, nullable=True),  # while the vault keeps it
    _column("result_read_at", _TIME, _EXECUTION, nullable=True),
)

# Whose call an idempotency key is, for a day.
idempotency_key = sa.Table(
    "idempotency_key",
    METADATA,
    _column("org_id", _ID, _CLAIM, primary_key=True),
    _column("endpoint", Text, _CLAIM, primary_key=True),
    _column("key_digest", LargeBinary, _CLAIM, primary_key=True),  # of the caller's key, which is not kept
    _column("fingerprint", LargeBinary, _CLAIM),  # of the request, likewise
    _column("execution_id", _ID, _CLAIM),
    _column("node_id", _ID, _OPERATION),
    _column("node_epoch", Integer, _OPERATION),
    _column("created_at", _TIME, _CLAIM, server_default=sa.func.now()),
)

# Where an organisation wants to hear of its executions.
webhook_endpoint = sa.Table(
    "webhook_endpoint",
    METADATA,
    _column("id", _ID, _ENDPOINT, primary_key=True),
    _column("org_id", _ID, _ENDPOINT),
    _column("url", Text, _ENDPOINT),  # sealed; its owner sees it
    _column("description", Text, _ENDPOINT),
    _column("events", ARRAY(Text), _ENDPOINT),  # none: all
    _column("state", Text, _ENDPOINT, server_default="ACTIVE"),
    _column("state_since", _TIME, _ENDPOINT, server_default=sa.func.now()),
    _column("secret", LargeBinary, _ENDPOINT_SECRET),  # sealed, like the next and the headers
    _column("previous_secret", LargeBinary, _ENDPOINT_SECRET, nullable=True),
    _column("previous_until", _TIME, _ENDPOINT, nullable=True),
    _column("headers", LargeBinary, _ENDPOINT_SECRET, nullable=True),
    _column("header_names", ARRAY(Text), _ENDPOINT),
    _column("failures", Integer, _ENDPOINT, server_default="0"),  # in a row
    _column("last_success_at", _TIME, _ENDPOINT, nullable=True),
    _column("last_failure_at", _TIME, _ENDPOINT, nullable=True),
    _column("last_failure", Text, _ENDPOINT, nullable=True),
    _column("created_at", _TIME, _ENDPOINT, server_default=sa.func.now()),
)

# Signs what goes to a URL that was given with a request.
webhook_secret = sa.Table(
    "webhook_secret",
    METADATA,
    _column("org_id", _ID, _ENDPOINT, primary_key=True),
    _column("secret", LargeBinary, _ENDPOINT_SECRET),
    _column("previous_secret", LargeBinary, _ENDPOINT_SECRET, nullable=True),
    _column("previous_until", _TIME, _ENDPOINT, nullable=True),
    _column("created_at", _TIME, _ENDPOINT, server_default=sa.func.now()),
)

# One event to one receiver: the queue, and for thirty days its history.
webhook_delivery = sa.Table(
    "webhook_delivery",
    METADATA,
    _column("id", _ID, _DELIVERY, primary_key=True),
    _column("org_id", _ID, _DELIVERY),
    _column("endpoint_id", _ID, _DELIVERY, nullable=True),
    _column("url", Text, _DELIVERY, nullable=True),  # sealed; of the request, in place of an endpoint
    _column("lane", _ID, _DELIVERY),  # the endpoint, or a keyed digest of organisation and host
    _column("event_id", _ID, _DELIVERY),
    _column("event", Text, _DELIVERY),
    _column("execution_id", _ID, _DELIVERY, nullable=True),
    _column("sequence", Integer, _DELIVERY),
    _column("facts", JSONB, _DELIVERY, nullable=True),  # webhooks.event.ExecutionFacts: ids, numbers, codes
    _column("state", Text, _DELIVERY),
    _column("attempts", Integer, _DELIVERY, server_default="0"),  # in all
    _column("retries", Integer, _DELIVERY, server_default="0"),  # of the schedule, since it was last sent anew
    _column("due_at", _TIME, _DELIVERY),  # while an attempt is under way: when it counts as lost
    _column("expires_at", _TIME, _DELIVERY),
    _column("created_at", _TIME, _DELIVERY, server_default=sa.func.now()),
    _column("first_attempt_at", _TIME, _DELIVERY, nullable=True),
    _column("ended_at", _TIME, _DELIVERY, nullable=True),
    _column("last_status", SmallInteger, _DELIVERY, nullable=True),
    _column("last_error", Text, _DELIVERY, nullable=True),
    _column("last_took_ms", Integer, _DELIVERY, nullable=True),
    _column("reason", Text, _DELIVERY, nullable=True),  # of a dead letter
)

EXTERNAL = (
    ExternalTable("alembic_version", "the number of the schema's newest revision"),
    ExternalTable("procrastinate_jobs", "queued work: its name and ids, until it is done"),
    ExternalTable("procrastinate_events", "when a job was queued, begun and tried again; goes with its job"),
    ExternalTable("procrastinate_periodic_defers", "when a job that recurs was last queued"),
    ExternalTable("procrastinate_workers", "workers of the queue, and when they were last heard of"),
)


def data_map() -> DataMap:
    """The map of the database as plain privacy values."""
    columns = tuple(
        Column(table.name, column.name, column.info.get("privacy"))
        for table in METADATA.sorted_tables
        for column in table.columns
    )
    return DataMap(columns, EXTERNAL)
