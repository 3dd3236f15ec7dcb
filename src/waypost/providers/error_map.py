"""What a provider's error means: configured rules first, then the map of OpenAI's errors, then GENERATION_FAILED.

A provider's words are matched against here and go no further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.providers.kind import ErrorRule, Failure

RETRY_AFTER_S_MAX = 3600.0  # beyond this it is not advice on when to retry
ERROR_BYTES_MAX = 65_536  # an error worth reading is shorter; what follows is not looked at

_decode_any = msgspec.json.Decoder().decode

_CONTEXT = ("context_length_exceeded", "max_tokens_exceeded", "token_limit_exceeded", "string_too_long")
_MODERATION = ("content_filter", "content_policy", "moderation", "responsibleai", "safety")
_CREDENTIAL = ("invalid_api_key", "incorrect_api_key", "authentication", "account_deactivated")
# Google's words in a 400 whose code names no credential. Elsewhere in a message they may be a caller's own, repeated.
_KEY_NOT_VALID = "api key not valid"
_ACCOUNT = ("insufficient_quota", "billing", "payment_required", "insufficient balance", "credit balance")
_MODEL = ("model_not_found", "model_deprecated", "model not found", "no_endpoints")
_TIMEOUT = ("timeout",)
_BUSY = ("rate_limit", "overloaded", "capacity", "too_many_requests", "resource_exhausted", "temporarily_unavailable")
_RATE_LIMIT = ("rate_limit", "too_many_requests", "resource_exhausted")
_INVALID = ("invalid_request", "invalid_prompt", "invalid_image", "unprocessable", "payload_too_large")

_NO_CODES: Mapping[str, ErrorCode] = {}
_BY_STATUS = {
    400: ErrorCode.INPUT_VALIDATION_ERROR,
    413: ErrorCode.INPUT_VALIDATION_ERROR,
    422: ErrorCode.INPUT_VALIDATION_ERROR,
    408: ErrorCode.GENERATION_TIMEOUT,
    504: ErrorCode.GENERATION_TIMEOUT,
    524: ErrorCode.GENERATION_TIMEOUT,
    # A provider's rate limit is ours with that provider, not the caller's with us.
    429: ErrorCode.MODEL_OVERLOADED,
    503: ErrorCode.MODEL_OVERLOADED,
    529: ErrorCode.MODEL_OVERLOADED,  # Anthropic's "overloaded", spoken by proxies in front of it too
    502: ErrorCode.MODEL_UNAVAILABLE,
    521: ErrorCode.MODEL_UNAVAILABLE,  # 52x: the provider's own front cannot reach it
    522: ErrorCode.MODEL_UNAVAILABLE,
    523: ErrorCode.MODEL_UNAVAILABLE,
}


class ProviderError(msgspec.Struct, frozen=True, gc=False):
    """The parts of an error object that rules look at; "" where there is none."""

    status: int
    code: str = ""
    type: str = ""
    message: str = ""


def read_error(status: int, body: bytes) -> ProviderError:
    """The error of an HTTP answer. Never raises: an unreadable body is an error without words."""
    try:
        document = _decode_any(body[:ERROR_BYTES_MAX])
    except (ValueError, RecursionError):
        return ProviderError(status)
    return error_of(status, document)


def decode_error(sent: bytes | msgspec.Raw) -> object:
    """An error that stands in an answer or an event; None for one too long to be read, as it takes 40 times its bytes.
    Raises ValueError, RecursionError."""
    return None if len(sent) > ERROR_BYTES_MAX else _decode_any(sent)


def error_of(status: int, document: object) -> ProviderError:
    """The error in a decoded body or event: under `error`, or the object itself."""
    if not isinstance(document, dict):
        return ProviderError(status, message=document if isinstance(document, str) else "")
    inner = document.get("error") or document
    if not isinstance(inner, dict):
        return ProviderError(status, message=_text(inner))
    code, kind = _text(inner.get("code")), _text(inner.get("type"))
    metadata = inner.get("metadata")
    if not kind and isinstance(metadata, dict):
        kind = _text(metadata.get("error_type"))
    if status == 200 and code.isascii() and code.isdigit() and len(code) == 3:
        status = int(code)  # in a stream, the status that the HTTP answer could no longer have
    return ProviderError(status, code, kind, _text(inner.get("message") or inner.get("detail")))


def failure_of(
    error: ProviderError,
    rules: Sequence[ErrorRule],
    retry_after_s: float | None = None,
    *,
    by_code: Mapping[str, ErrorCode] = _NO_CODES,
) -> Failure:
    """The canonical failure. `by_code` are the names that only this kind of provider has."""
    for rule in rules:
        if _matches(rule, error):
            return Failure(
                rule.code,
                retry_after_s,
                is_our_credential=error.status in (401, 402, 403),
                is_our_model_name=error.status == 404,
                is_rate_limit=_is_rate_limit(error),
            )
    if error.code in by_code:
        return Failure(by_code[error.code], retry_after_s, is_rate_limit=_is_rate_limit(error))
    return _built_in(error, retry_after_s)


def retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds, or a date counted from the answer's own `date`, so that
    no two clocks are compared). None when absent, negative or absurd."""
    milliseconds = _number(headers.get(b"retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    value = headers.get(b"retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _bounded(seconds)
    try:
        until = parsedate_to_datetime((value or b"").decode("ascii"))
        since = parsedate_to_datetime(headers.get(b"date", b"").decode("ascii"))
        return _bounded((until - since).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _built_in(error: ProviderError, wait_s: float | None) -> Failure:
    status = error.status
    names = f"{error.code}\n{error.type}".lower()  # what a message says in passing must not decide these
    if _has(names, _CONTEXT):
        return Failure(ErrorCode.INPUT_VALIDATION_ERROR)
    if _has(names, _MODERATION):
        return Failure(ErrorCode.CONTENT_MODERATION_REJECTED)
    is_key_not_valid = status == 400 and error.message.lower().startswith(_KEY_NOT_VALID)
    if status in (401, 402, 403) or _has(names, _CREDENTIAL + _ACCOUNT) or is_key_not_valid:
        return Failure(ErrorCode.MODEL_UNAVAILABLE, wait_s, is_our_credential=True)
    if status == 404 or _has(names, _MODEL):
        return Failure(ErrorCode.MODEL_UNAVAILABLE, wait_s, is_our_model_name=True)
    code = _BY_STATUS.get(status)
    if code is None:
        code = _by_name(names) if status == 200 else ErrorCode.GENERATION_FAILED
    return Failure(code, wait_s, is_rate_limit=_is_rate_limit(error))


def _is_rate_limit(error: ProviderError) -> bool:
    return error.status == 429 or (error.status == 200 and _has(f"{error.code}\n{error.type}".lower(), _RATE_LIMIT))


def _by_name(names: str) -> ErrorCode:
    if _has(names, _BUSY):
        return ErrorCode.MODEL_OVERLOADED
    if _has(names, _TIMEOUT):
        return ErrorCode.GENERATION_TIMEOUT
    if _has(names, _INVALID):
        return ErrorCode.INPUT_VALIDATION_ERROR
    return ErrorCode.GENERATION_FAILED


def _matches(rule: ErrorRule, error: ProviderError) -> bool:
    return (
        (rule.status is None or rule.status == error.status)
        and (rule.provider_code is None or rule.provider_code == error.code)
        and (rule.provider_type is None or rule.provider_type == error.type)
        and (rule.message_contains is None or rule.message_contains.lower() in error.message.lower())
    )


def _has(words: str, signs: Sequence[str]) -> bool:
    return any(sign in words for sign in signs)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _number(value: bytes | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def _bounded(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= RETRY_AFTER_S_MAX else None  # NaN is neither
