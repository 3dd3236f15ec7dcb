"""Why an attempt failed, where its provider did not say so itself."""

from __future__ import annotations

from waypost.kit.errors import ErrorCode
from waypost.providers.kind import Failure
from waypost.transport.http1_client import TransportFailure

BROKEN = Failure(code=ErrorCode.GENERATION_FAILED)
UNAFFORDABLE = Failure(code=ErrorCode.INSUFFICIENT_BALANCE)
OUR_FAULT = Failure(code=ErrorCode.INTERNAL_ERROR)
OUT_OF_TIME = "The answer was not whole within the time that the request gives."
TIMED_OUT = Failure(code=ErrorCode.GENERATION_TIMEOUT)
UNREACHABLE = Failure(code=ErrorCode.MODEL_UNAVAILABLE)
OF_TRANSPORT = {
    TransportFailure.DNS: UNREACHABLE,
    TransportFailure.CONNECT_REFUSED: UNREACHABLE,
    TransportFailure.CONNECT_TIMEOUT: UNREACHABLE,
    TransportFailure.TLS: UNREACHABLE,
    TransportFailure.RESET_REUSED: UNREACHABLE,
    TransportFailure.RESET: BROKEN,
    TransportFailure.TRUNCATED: BROKEN,
    TransportFailure.MALFORMED: BROKEN,
    TransportFailure.TOO_LARGE: BROKEN,
    TransportFailure.FIRST_BYTE_TIMEOUT: TIMED_OUT,
    TransportFailure.IDLE_TIMEOUT: TIMED_OUT,
    TransportFailure.TOTAL_TIMEOUT: TIMED_OUT,
}
