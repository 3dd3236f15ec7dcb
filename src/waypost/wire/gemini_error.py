"""Errors as Google's APIs write them: `google.rpc.Status` with an `ErrorInfo` that names our code."""

from __future__ import annotations

import msgspec

from waypost.kit.errors import ErrorCode, NoEligibleRoute, Refusal

_encode = msgspec.json.Encoder().encode
_TYPE = "type.googleapis.com/google.rpc."
# google.rpc.Code by HTTP status; any other 4xx is an argument's fault, any other 5xx our own.
_STATUS = {
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    410: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def render_status(refusal: Refusal, request_id: str, retry_after_s: int | None) -> bytes:
    """The error object as JSON. `retry_after_s` None: a retry cannot help."""
    code = refusal.code
    metadata = {"retryable": "true" if code.is_retryable else "false"}
    if isinstance(refusal, NoEligibleRoute):
        metadata |= {f"excluded_by.{name}": str(count) for name, count in refusal.excluded_by.items()}
    info: dict[str, object] = {
        "@type": f"{_TYPE}ErrorInfo",
        "reason": code.name,
        "domain": "waypost",
        "metadata": metadata,
    }
    details: list[dict[str, object]] = [info]
    if code is ErrorCode.INPUT_VALIDATION_ERROR and refusal.param is not None:
        violation = {"field": refusal.param, "description": refusal.message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    if retry_after_s is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{retry_after_s}s"})
    details.append({"@type": f"{_TYPE}RequestInfo", "requestId": request_id})
    status = _STATUS.get(code.status) or ("INTERNAL" if code.status >= 500 else "INVALID_ARGUMENT")
    return _encode({"error": {"code": code.status, "message": refusal.message, "status": status, "details": details}})
