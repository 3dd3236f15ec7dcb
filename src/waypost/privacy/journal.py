"""What the gateway's journal holds, in the words of the data map. Ids and numbers only, never content.

A segment goes as soon as the database has all of it, so nobody's export or erasure reads it: both find the same facts
in the tables that the records are booked in.
"""

from __future__ import annotations

from waypost.privacy.data_map import (
    Anchor,
    Category,
    Column,
    DataMap,
    Export,
    Purpose,
    Retention,
    impersonal,
    personal,
)

_UNTIL_BOOKED = Retention(Anchor.BOOKED, days=0)
_EXECUTION = personal(Category.EXECUTION_METADATA, Purpose.SERVICE, Purpose.BILLING, retention=_UNTIL_BOOKED)
_RECIPIENT = personal(Category.RECIPIENT, Purpose.BILLING, retention=_UNTIL_BOOKED, export=Export.ON_VERIFIED_REQUEST)
_OPERATION = impersonal(Category.OPERATION)

_RECORDS = {
    "Grant": dict.fromkeys(("lease_id", "org_id", "granted_nanos"), _EXECUTION),
    "Open": {
        **dict.fromkeys(("attempt_id", "execution_id", "lease_id", "org_id", "api_key_id"), _EXECUTION),
        **dict.fromkeys(("hold_nanos", "has_long_hold", "cost_bound_nanos", "attempt_number"), _EXECUTION),
        **dict.fromkeys(("opened_at_ms", "accepted_at_ms", "is_stream", "model"), _EXECUTION),
        **dict.fromkeys(("provider", "deployment"), _RECIPIENT),
        "price_version": _OPERATION,
    },
    "Close": {
        **dict.fromkeys(
            ("attempt_id", "outcome", "is_final", "is_estimated", "charge_nanos", "cogs_nanos"), _EXECUTION
        ),
        **dict.fromkeys(("closed_at_ms", "first_content_ms", "status", "error_code"), _EXECUTION),
        **dict.fromkeys(("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens"), _EXECUTION),
        **dict.fromkeys(("cache_write_5m_tokens", "cache_write_1h_tokens"), _EXECUTION),
        **dict.fromkeys(("audio_input_tokens", "image_input_tokens", "audio_output_tokens"), _EXECUTION),
        **dict.fromkeys(("images", "duration_ms", "characters"), _EXECUTION),
        "answer": _RECIPIENT,
    },
    "Ack": {"attempt_ids": _EXECUTION},
    "Progress": dict.fromkeys(("attempt_id", "input_tokens", "output_tokens", "charge_nanos"), _EXECUTION),
    "Extend": dict.fromkeys(("attempt_id", "hold_nanos"), _EXECUTION),
}


def journal_map() -> DataMap:
    """Every field of every record; a record stands as a table."""
    return DataMap(
        tuple(
            Column(record, field, said["privacy"])
            for record, fields in _RECORDS.items()
            for field, said in fields.items()
        )
    )
