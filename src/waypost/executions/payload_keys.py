"""What of an execution is in the vault, under which key and for how long."""

from __future__ import annotations

RESULT_TTL_S = 3_600.0  # after its end, unless it is read later than that and has been asked to be kept longer
PAYLOAD_TTL_S_MAX = 86_400.0
METADATA_BYTES_MAX = 16_384
GRACE_S = 60.0  # an input outlives its execution's deadline by this: the deadline ends it, not the vault

_INPUT, _OUTPUT, _METADATA = "input", "output", "metadata"


def input_key(execution_id: bytes) -> str:
    """JSON of the `input`, until the execution ends."""
    return f"{_INPUT}/{execution_id.hex()}"


def output_key(execution_id: bytes, attempt: int) -> str:
    """JSON of the `output` of one that makes text or vectors, from just before its success on. Each attempt has a
    place of its own: one that lost takes nothing away from the one that did not."""
    return f"{_OUTPUT}/{execution_id.hex()}/{attempt}"


def metadata_key(execution_id: bytes) -> str:
    """JSON of the caller's `metadata`, as long as its result."""
    return f"{_METADATA}/{execution_id.hex()}"
