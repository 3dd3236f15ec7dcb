from __future__ import annotations

import json
from typing import Any

import pytest

from waypost.kit.errors import ErrorCode
from waypost.policy.catalogue import ErrorRule
from waypost.providers import KINDS
from waypost.providers.kind import Failure


def failure(
    status: int, error: Any = None, *, rules: tuple[ErrorRule, ...] = (), headers: dict[bytes, bytes] | None = None
) -> Failure:
    body = error if isinstance(error, bytes) else json.dumps({"error": error}).encode()
    return KINDS["openai"].failure(status, headers or {}, body, rules)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"code": "context_length_exceeded"}, ErrorCode.INPUT_VALIDATION_ERROR),
        (400, {"code": "content_filter"}, ErrorCode.CONTENT_MODERATION_REJECTED),
        (400, {"type": "content_policy_violation"}, ErrorCode.CONTENT_MODERATION_REJECTED),
        (403, {"code": 403, "metadata": {"error_type": "content_policy_violation"}}, "CONTENT_MODERATION_REJECTED"),
        (400, {"message": "content_filter is not a known field"}, ErrorCode.INPUT_VALIDATION_ERROR),
        (400, {"type": "invalid_request_error"}, ErrorCode.INPUT_VALIDATION_ERROR),
        (400, {"message": "'authentication' is no role"}, ErrorCode.INPUT_VALIDATION_ERROR),
        (400, {"message": "unknown role 'API key not valid'"}, ErrorCode.INPUT_VALIDATION_ERROR),
        (413, None, ErrorCode.INPUT_VALIDATION_ERROR),
        (422, b'{"detail":[{"loc":["body"]}]}', ErrorCode.INPUT_VALIDATION_ERROR),
        (408, None, ErrorCode.GENERATION_TIMEOUT),
        (504, None, ErrorCode.GENERATION_TIMEOUT),
        (524, None, ErrorCode.GENERATION_TIMEOUT),
        (429, {"code": "rate_limit_exceeded"}, ErrorCode.MODEL_OVERLOADED),
        (500, {"type": "server_error"}, ErrorCode.GENERATION_FAILED),
        (502, b"<html>", ErrorCode.MODEL_UNAVAILABLE),
        (503, None, ErrorCode.MODEL_OVERLOADED),
        (529, {"type": "overloaded_error"}, ErrorCode.MODEL_OVERLOADED),
        (599, None, ErrorCode.GENERATION_FAILED),
        (301, None, ErrorCode.GENERATION_FAILED),
        (307, b"", ErrorCode.GENERATION_FAILED),
        (204, b"", ErrorCode.GENERATION_FAILED),
        (409, None, ErrorCode.GENERATION_FAILED),
        (418, {"code": "teapot"}, ErrorCode.GENERATION_FAILED),
    ],
)
def test_the_built_in_map(status: int, error: Any, code: ErrorCode | str) -> None:
    mapped = failure(status, error)

    assert mapped.code is (ErrorCode[code] if isinstance(code, str) else code)
    assert not mapped.is_our_credential
    assert not mapped.is_our_model_name


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, {"code": "invalid_api_key"}),
        (403, None),
        (402, {"message": "Payment required"}),
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
        (400, {"message": "API key not valid. Please pass a valid API key."}),
    ],
)
def test_a_refused_credential_or_account_is_ours_to_mend(status: int, error: Any) -> None:
    mapped = failure(status, error)

    assert (mapped.code, mapped.is_our_credential) == (ErrorCode.MODEL_UNAVAILABLE, True)


@pytest.mark.parametrize(("status", "error"), [(404, None), (400, {"code": "model_not_found"})])
def test_an_unknown_model_name_is_ours_to_mend(status: int, error: Any) -> None:
    mapped = failure(status, error)

    assert (mapped.code, mapped.is_our_model_name) == (ErrorCode.MODEL_UNAVAILABLE, True)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (ErrorRule(ErrorCode.RATE_LIMITED, status=400), True),
        (ErrorRule(ErrorCode.RATE_LIMITED, status=401), False),
        (ErrorRule(ErrorCode.RATE_LIMITED, provider_code="E7"), True),
        (ErrorRule(ErrorCode.RATE_LIMITED, provider_code="e7"), False),
        (ErrorRule(ErrorCode.RATE_LIMITED, provider_type="kind"), True),
        (ErrorRule(ErrorCode.RATE_LIMITED, message_contains="QUEUE is full"), True),
        (ErrorRule(ErrorCode.RATE_LIMITED, status=400, provider_code="E7", provider_type="kind"), True),
        (ErrorRule(ErrorCode.RATE_LIMITED, status=400, provider_code="E7", provider_type="other"), False),
        (ErrorRule(ErrorCode.RATE_LIMITED), True),
    ],
)
def test_a_configured_rule_matches_when_every_given_part_does(rule: ErrorRule, matches: bool) -> None:
    error = {"code": "E7", "type": "kind", "message": "The queue is full."}

    mapped = failure(400, error, rules=(rule,))
    assert mapped.code is (ErrorCode.RATE_LIMITED if matches else ErrorCode.INPUT_VALIDATION_ERROR)


def test_the_first_matching_rule_wins() -> None:
    rules = (
        ErrorRule(ErrorCode.FILE_NOT_FOUND, status=401),
        ErrorRule(ErrorCode.MODEL_OVERLOADED, status=400),
        ErrorRule(ErrorCode.RATE_LIMITED),
    )

    assert failure(400, rules=rules).code is ErrorCode.MODEL_OVERLOADED


def test_a_rule_changes_what_the_caller_reads_not_what_the_operator_must_mend() -> None:
    mapped = failure(401, rules=(ErrorRule(ErrorCode.SERVICE_UNAVAILABLE, status=401),))

    assert (mapped.code, mapped.is_our_credential) == (ErrorCode.SERVICE_UNAVAILABLE, True)


def test_numeric_codes_match_as_text() -> None:
    assert failure(400, {"code": 1305}, rules=(ErrorRule(ErrorCode.RATE_LIMITED, provider_code="1305"),)).code is (
        ErrorCode.RATE_LIMITED
    )


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"null", b"7", b'"boom"', b'{"error":[1]}', b"{}"])
def test_an_unreadable_error_is_mapped_by_its_status(body: bytes) -> None:
    assert failure(500, body).code is ErrorCode.GENERATION_FAILED


def test_the_providers_words_are_not_kept() -> None:
    assert "canary" not in repr(failure(500, {"message": "canary", "code": "canary", "type": "canary"}))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0.5"}, 0.5),
        ({b"retry-after": b"0"}, 0.0),
        ({b"retry-after-ms": b"250", b"retry-after": b"9"}, 0.25),
        ({b"retry-after-ms": b"soon", b"retry-after": b"9"}, 9.0),
        ({b"retry-after": b"-1"}, None),
        ({b"retry-after": b"1e12"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"inf"}, None),
        ({b"retry-after": b"soon"}, None),
        ({b"retry-after": b"\xff"}, None),
        ({b"retry-after": b""}, None),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:30 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:27:00 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({b"retry-after": b"Wed, 21 Oct 2036 07:28:00 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({b"retry-after": b"Wed, 21 Oct 2026 07:28:30 GMT", b"date": b"Wed, 21 Oct 2026 07:28:00 -0000"}, None),
    ],
)
def test_retry_after_is_read_when_it_makes_sense(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert failure(429, headers=headers).retry_after_s == seconds


def test_what_a_retry_cannot_help_has_no_time_to_retry() -> None:
    assert failure(400, {"code": "context_length_exceeded"}, headers={b"retry-after": b"5"}).retry_after_s is None
