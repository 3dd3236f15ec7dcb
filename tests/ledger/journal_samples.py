"""Journal segments to begin a fuzzing from."""

from __future__ import annotations

from tests.gateway.disk import closed, opened
from waypost.ledger.journal_format import MAGIC, encode_ack, encode_close, encode_grant, encode_open
from waypost.ledger.record import Grant


def journal_samples() -> list[bytes]:
    """A whole segment, one with a torn tail, one with damage in the middle, and none."""
    record = opened()
    close = closed(record)
    parts = [
        encode_grant(1, Grant(bytes(16), bytes(16), 5)),
        encode_open(2, record),
        encode_close(3, close),
        encode_ack(4, [close.attempt_id]),
    ]
    whole = MAGIC + b"".join(parts) + bytes(64)
    return [whole, whole[:-100], whole[:60] + b"\xff" + whole[61:], MAGIC, b""]
