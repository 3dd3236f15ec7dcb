"""How a refusal reads in each caller's format. The canonical code stands in every one of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode, Fault, InvalidFields, NoEligibleRoute, Refusal
from waypost.wire.gemini_error import render_status

_encode = msgspec.json.Encoder().encode

# OpenAI's vocabulary; its SDKs choose the exception class by HTTP status, people and logs read the type.
_OPENAI_TYPES = {
    ErrorCode.INSUFFICIENT_BALANCE: "insufficient_quota",
    ErrorCode.RATE_LIMITED: "rate_limit_error",
    ErrorCode.UNAUTHENTICATED: "authentication_error",
    ErrorCode.PERMISSION_DENIED: "permission_error",
    ErrorCode.NOT_FOUND: "not_found_error",
    ErrorCode.CONFLICT: "conflict_error",
}


# Anthropic's, told by people and logs like OpenAI's; any other 4xx is an invalid request, any other 5xx an API error.
_ANTHROPIC_TYPES = {
    ErrorCode.INSUFFICIENT_BALANCE: "billing_error",
    ErrorCode.RATE_LIMITED: "rate_limit_error",
    ErrorCode.MODEL_OVERLOADED: "overloaded_error",
    ErrorCode.GENERATION_TIMEOUT: "timeout_error",
    ErrorCode.UNAUTHENTICATED: "authentication_error",
    ErrorCode.PERMISSION_DENIED: "permission_error",
    ErrorCode.NOT_FOUND: "not_found_error",
    ErrorCode.CONFLICT: "conflict_error",
    ErrorCode.PAYLOAD_TOO_LARGE: "request_too_large",
}

RETRY_AFTER_S = 1  # when nothing better is known


class _OpenAIError(msgspec.Struct, gc=False):
    message: str
    type: str
    param: str | None
    code: str
    request_id: str
    excluded_by: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class _AnthropicError(msgspec.Struct, gc=False):
    type: str
    message: str
    code: str
    excluded_by: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class _CanonicalError(msgspec.Struct, gc=False, omit_defaults=True):
    code: str
    message: str
    retryable: bool
    request_id: str
    details: Sequence[Fault] | None = None
    excluded_by: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


def render_error(dialect: str, refusal: Refusal, request_id: str) -> bytes:
    """The error object of a dialect, as JSON: `"openai"`, `"anthropic"`, `"gemini"` or `"canonical"`."""
    code = refusal.code
    if dialect == "gemini":
        return render_status(refusal, request_id, wait_s(refusal))
    excluded_by = refusal.excluded_by if isinstance(refusal, NoEligibleRoute) else msgspec.UNSET
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(code) or ("server_error" if code.status >= 500 else "invalid_request_error")
        error = _OpenAIError(refusal.message, kind, refusal.param, code.name, request_id, excluded_by)
        return _encode({"error": error})
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(code) or ("api_error" if code.status >= 500 else "invalid_request_error")
        said = _AnthropicError(kind, refusal.message, code.name, excluded_by)
        return _encode({"type": "error", "error": said, "request_id": request_id})
    assert dialect == "canonical", "a dialect without an error envelope"
    details: Sequence[Fault] | None = None
    if isinstance(refusal, InvalidFields):
        details = refusal.faults
    elif code is ErrorCode.INPUT_VALIDATION_ERROR and refusal.param is not None:
        details = [Fault(refusal.param, refusal.detail, refusal.message)]
    canonical = _CanonicalError(code.name, refusal.message, code.is_retryable, request_id, details, excluded_by)
    return _encode({"error": canonical})


def error_headers(refusal: Refusal) -> bytes:
    """`retry-after` when a wait may help, also where nobody told how long: its presence must not tell who was asked.
    `x-should-retry: false`, which SDKs obey, when none can."""
    seconds = wait_s(refusal)
    return b"x-should-retry: false\r\n" if seconds is None else b"retry-after: %d\r\n" % seconds


def wait_s(refusal: Refusal) -> int | None:
    """After how many seconds a retry may help; None when it cannot."""
    if refusal.retry_after_s is not None:
        return refusal.retry_after_s
    return RETRY_AFTER_S if refusal.code.is_retryable else None
