"""How the worker asks a gateway to call a model for an asynchronous execution, and what a gateway tells beside the
answer.

It is a call of a caller's endpoint (`/v1/chat/completions` and the others) on the gateway's internal socket, which is
this user's alone: one header says for which execution, in place of a key, and one header of the answer says what came
of it. Errors are in the canonical envelope.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waypost.kit.values import fields_of
from waypost.wire.canonical import Usage

CALL_HEADER = b"x-waypost-call"
OUTCOME_HEADER = b"x-waypost-outcome"
ATTEMPTS_MAX = 250  # of one execution: their number is a byte, and one call makes a few more


class ModelCall(msgspec.Struct, frozen=True):
    """For which execution, and under which hold. Its attempts are booked on the long hold of that id."""

    execution_id: bytes
    org_id: bytes
    api_key_id: bytes
    hold_nanos: int  # most that the customer may be charged
    accepted_at_ms: int  # Unix ms
    price_version: int  # catalogue version, of which the prices of that moment count
    attempts_before: int = 0  # that earlier calls of the execution have made, or may have

    def __post_init__(self) -> None:
        if not all(len(raw) == 16 for raw in (self.execution_id, self.org_id, self.api_key_id)):
            raise ValueError("an id is 16 bytes")
        if not 0 <= self.attempts_before <= ATTEMPTS_MAX or self.hold_nanos < 0 or self.accepted_at_ms < 0:
            raise ValueError("out of range")


class CallOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a call."""

    attempts: int  # of the execution until now: what the next call has to say as `attempts_before`
    is_sent: bool = False  # whether any provider may have received it
    units: dict[str, int | bool] | None = None  # of an answer: what is not 0 of its `Usage`
    charge_nanos: int = 0  # what the answer costs the customer, within the hold; booked by nobody yet
    price_version: int = 0  # catalogue version whose prices count

    def __post_init__(self) -> None:
        if self.units is not None and not self.units.keys() <= {*fields_of(Usage)}:
            raise ValueError("units that there are not")

    @property
    def usage(self) -> Usage | None:
        return None if self.units is None else Usage(**self.units)  # type: ignore[arg-type]  # as they were told


def units_of(usage: Usage) -> dict[str, int | bool]:
    """As an outcome tells it."""
    return {name: value for name in fields_of(Usage) if (value := getattr(usage, name))}


_encode = msgspec.json.Encoder().encode
_decode_call = msgspec.json.Decoder(ModelCall).decode
_decode_outcome = msgspec.json.Decoder(CallOutcome).decode


def call_line(call: ModelCall) -> bytes:
    """The header line of a request."""
    return b"%b: %b\r\n" % (CALL_HEADER, _encode(call))


def outcome_line(outcome: CallOutcome) -> bytes:
    """The header line of an answer."""
    return b"%b: %b\r\n" % (OUTCOME_HEADER, _encode(outcome))


def read_call(headers: Mapping[bytes, bytes]) -> ModelCall:
    """Raises ValueError."""
    return _decode_call(headers.get(CALL_HEADER, b""))


def read_outcome(headers: Mapping[bytes, bytes]) -> CallOutcome:
    """Raises ValueError."""
    return _decode_outcome(headers.get(OUTCOME_HEADER, b""))
