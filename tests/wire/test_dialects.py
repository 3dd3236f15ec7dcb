from __future__ import annotations

import json

import httpx2
import openai
import pytest

from waypost.kit.errors import ErrorCode, Refusal, invalid
from waypost.wire.dialects import error_headers, render_error


def raised_by_the_sdk(refusal: Refusal) -> openai.APIStatusError:
    """What the `openai` SDK makes of our error."""
    headers = dict(line.split(": ") for line in error_headers(refusal).decode().split("\r\n") if line)
    answer = httpx2.Response(
        refusal.code.status,
        headers={"content-type": "application/json"} | headers,
        content=render_error("openai", refusal, "req_1"),
    )
    transport = httpx2.MockTransport(lambda request: answer)
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.chat.completions.create(model="m", messages=[])
    return raised.value


@pytest.mark.parametrize(
    ("code", "exception", "kind"),
    [
        (ErrorCode.INPUT_VALIDATION_ERROR, openai.BadRequestError, "invalid_request_error"),
        (ErrorCode.CONTENT_MODERATION_REJECTED, openai.BadRequestError, "invalid_request_error"),
        (ErrorCode.UNAUTHENTICATED, openai.AuthenticationError, "authentication_error"),
        (ErrorCode.INSUFFICIENT_BALANCE, openai.APIStatusError, "insufficient_quota"),
        (ErrorCode.PERMISSION_DENIED, openai.PermissionDeniedError, "permission_error"),
        (ErrorCode.NOT_FOUND, openai.NotFoundError, "not_found_error"),
        (ErrorCode.CONFLICT, openai.ConflictError, "conflict_error"),
        (ErrorCode.IDEMPOTENCY_MISMATCH, openai.UnprocessableEntityError, "invalid_request_error"),
        (ErrorCode.RATE_LIMITED, openai.RateLimitError, "rate_limit_error"),
        (ErrorCode.GENERATION_FAILED, openai.InternalServerError, "server_error"),
        (ErrorCode.MODEL_OVERLOADED, openai.InternalServerError, "server_error"),
        (ErrorCode.GENERATION_TIMEOUT, openai.InternalServerError, "server_error"),
    ],
)
def test_the_openai_sdk_raises_its_own_exception_for_each_code(
    code: ErrorCode, exception: type[openai.APIStatusError], kind: str
) -> None:
    raised = raised_by_the_sdk(Refusal(code, param="messages"))

    assert type(raised) is exception or exception is openai.APIStatusError
    assert (raised.code, raised.type, raised.param) == (code.name, kind, "messages")
    assert isinstance(raised.body, dict)
    assert raised.body["request_id"] == "req_1"


def test_every_code_has_an_openai_envelope_of_the_same_five_fields() -> None:
    for code in ErrorCode:
        error = json.loads(render_error("openai", Refusal(code), "req_1"))["error"]
        assert list(error) == ["message", "type", "param", "code", "request_id"]
        assert (error["code"], error["message"], error["param"]) == (code.name, code.message, None)


def test_the_canonical_envelope_has_details_only_where_a_field_is_at_fault() -> None:
    plain = json.loads(render_error("canonical", Refusal(ErrorCode.MODEL_OVERLOADED), "req_1"))
    field = json.loads(render_error("canonical", invalid("input.width", "Too wide."), "req_1"))

    assert plain == {
        "error": {
            "code": "MODEL_OVERLOADED",
            "message": ErrorCode.MODEL_OVERLOADED.message,
            "retryable": True,
            "request_id": "req_1",
        }
    }
    assert field["error"]["retryable"] is False
    assert field["error"]["details"] == [{"field": "input.width", "code": "INVALID_VALUE", "message": "Too wide."}]


def test_headers_tell_whether_and_when_to_retry() -> None:
    assert error_headers(Refusal(ErrorCode.RATE_LIMITED, retry_after_s=7)) == b"retry-after: 7\r\n"
    assert error_headers(Refusal(ErrorCode.MODEL_OVERLOADED)) == b"retry-after: 1\r\n"
    assert error_headers(Refusal(ErrorCode.INSUFFICIENT_BALANCE)) == b"x-should-retry: false\r\n"
    assert error_headers(Refusal(ErrorCode.CONFLICT, retry_after_s=1)) == b"retry-after: 1\r\n"
