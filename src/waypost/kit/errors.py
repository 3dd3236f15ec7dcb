"""Refusals: everything that a caller may be told, with its canonical code, HTTP status and retryable flag.

    Refusal                     we said no, and the caller can act
    (an upstream failure is a `providers.outcome` value, a bug is an AssertionError: neither is raised to a caller)

The first twelve codes are ModelRoute's published ones, the rest are ours. Rendered once, in `wire/dialects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec


class ErrorCode(Enum):
    """code → (HTTP status, retryable, what a caller reads when the rule that refused had nothing better to say)."""

    INPUT_VALIDATION_ERROR = (400, False, "The request is not valid for this model.")
    CONTENT_MODERATION_REJECTED = (400, False, "The content was refused by the model's safety rules.")
    FILE_NOT_FOUND = (400, False, "A file that the request names does not exist.")
    FILE_FORMAT_UNSUPPORTED = (
        400,
        False,
        "A file that the request names has a format that the model cannot read.",
    )
    INSUFFICIENT_BALANCE = (
        402,
        False,
        "The organisation's balance does not cover the most this request may cost.",
    )
    RATE_LIMITED = (429, True, "Too many requests. Wait and try again.")
    MODEL_OVERLOADED = (503, True, "The model is overloaded. Wait and try again.")
    MODEL_UNAVAILABLE = (503, True, "The model is not available at the moment. Try again later.")
    GENERATION_TIMEOUT = (504, True, "The model did not answer in time.")
    GENERATION_FAILED = (500, True, "The model failed to produce an answer.")
    SERVICE_UNAVAILABLE = (503, True, "The service cannot take the request at the moment. Try again later.")
    INTERNAL_ERROR = (500, False, "Something went wrong on our side.")
    UNAUTHENTICATED = (401, False, "A valid API key is needed: send it as 'Authorization: Bearer sk_…'.")
    PERMISSION_DENIED = (403, False, "This API key may not do that.")
    NOT_FOUND = (404, False, "There is nothing at this address.")
    METHOD_NOT_ALLOWED = (405, False, "This address does not take that method.")
    REQUEST_TIMEOUT = (408, False, "The request did not arrive in time.")
    CONFLICT = (409, False, "The request conflicts with an earlier one.")
    NO_ELIGIBLE_ROUTE = (409, False, "No route satisfies every constraint of the request.")
    RESULT_LOST = (410, False, "The result is no longer held.")
    PAYLOAD_TOO_LARGE = (413, False, "The request body is too large.")
    UNSUPPORTED_MEDIA_TYPE = (415, False, "Send the body as plain JSON, without a content encoding.")
    RANGE_NOT_SATISFIABLE = (416, False, "The range that the request asks for is beyond the end.")
    IDEMPOTENCY_MISMATCH = (422, False, "This idempotency key was used with a different request.")
    HEADERS_TOO_LARGE = (431, False, "The request line or headers are too large.")

    def __init__(self, status: int, is_retryable: bool, message: str) -> None:
        self.status = status
        self.is_retryable = is_retryable
        self.message = message


class Refusal(Exception):
    """We said no. `param` names the request field at fault and `detail` how, `retry_after_s` when a retry may help.

    `message` is text of ours: it never quotes what the caller or a provider sent.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str = "",
        *,
        param: str | None = None,
        detail: str = "INVALID_VALUE",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(code.name)
        self.code = code
        self.message = message or code.message
        self.param = param
        self.detail = detail
        self.retry_after_s = retry_after_s


class NoEligibleRoute(Refusal):
    """409: constraints of the request left no route. `excluded_by` counts the routes by the constraint that excluded
    them, which tells nothing of whose they are."""

    def __init__(self, excluded_by: dict[str, int]) -> None:
        names = ", ".join(sorted(excluded_by))
        super().__init__(
            ErrorCode.NO_ELIGIBLE_ROUTE, f"{ErrorCode.NO_ELIGIBLE_ROUTE.message} Excluding: {names}.", param="provider"
        )
        self.excluded_by = excluded_by


DETAILS = (
    *("REQUIRED", "INVALID_TYPE", "OUT_OF_RANGE", "UNKNOWN_FIELD", "INVALID_VALUE", "INVALID_FORMAT"),
    "URL_NOT_ALLOWED",
)
"""What can be wrong with a field, as a word for programs. The first and the third are ModelRoute's."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where (`input.messages[0].role`), one of `DETAILS`, and a sentence.
    Of what the caller sent it names fields only."""

    field: str
    code: str
    message: str


class InvalidFields(Refusal):
    """400 INPUT_VALIDATION_ERROR with everything that is wrong, the first of which the message tells."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(ErrorCode.INPUT_VALIDATION_ERROR, faults[0].message, param=faults[0].field)
        self.faults = tuple(faults)


def invalid(param: str | None, message: str, detail: str = "INVALID_VALUE") -> Refusal:
    """400 INPUT_VALIDATION_ERROR at a named field; `detail` is the word for programs: see `DETAILS`."""
    assert detail in DETAILS, detail
    return Refusal(ErrorCode.INPUT_VALIDATION_ERROR, message, param=param, detail=detail)
