from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.gemini_samples import SAID, read, sealed
from waypost.kit.errors import ErrorCode
from waypost.kit.values import as_dict
from waypost.providers import KINDS
from waypost.providers.gemini_build import SKIPS_VALIDATION
from waypost.providers.kind import BadAnswer, Target, UpstreamError
from waypost.wire.canonical import Signature, Usage

GEMINI = KINDS["gemini"]
OURS, FOREIGN = Signature("gemini", "EqQB"), Signature("anthropic", "ErUB")


def target(model: str = "gemini-9", prefix: str = "") -> Target:
    return GEMINI.prepare(Target(b"host", prefix, "AIza", model))


def said(*parts: dict[str, Any], reason: str | None = "STOP", **fields: Any) -> bytes:
    candidate = {"content": {"parts": parts}, "finishReason": reason}
    return json.dumps({"candidates": [candidate], **fields}).encode()


def asked(request: dict[str, Any], **fields: Any) -> dict[str, Any]:
    _, body = GEMINI.call(read(request, **fields), target(), output_tokens_max=100)
    return dict(json.loads(body))


@pytest.mark.parametrize(
    ("model", "prefix", "path"),
    [
        ("gemini-9", "", "/v1beta/models/gemini-9"),
        ("gemini-9", "/proxy", "/proxy/v1beta/models/gemini-9"),
        ("gemini-9", "/proxy/v1", "/proxy/v1/models/gemini-9"),
        ("tunedModels/mine", "", "/v1beta/tunedModels/mine"),
        ("acme/löwe:free", "", "/v1beta/models/acme/l%C3%B6we%3Afree"),
    ],
)
def test_the_model_stands_in_the_path_and_the_key_in_a_header_alone(model: str, prefix: str, path: str) -> None:
    plain, _ = GEMINI.call(read({"contents": SAID}), target(model, prefix), output_tokens_max=None)
    streamed, _ = GEMINI.call(read({"contents": SAID}, is_stream=True), target(model, prefix), output_tokens_max=None)

    assert plain.decode().startswith(f"POST {path}:generateContent HTTP/1.1\r\n")
    assert streamed.decode().startswith(f"POST {path}:streamGenerateContent?alt=sse HTTP/1.1\r\n")
    assert b"\r\nx-goog-api-key: AIza\r\n" in plain
    assert plain.count(b"AIza") == 1


@pytest.mark.parametrize("model", ["../secret", "a/../b", "a//b", ""])
def test_a_model_name_that_climbs_is_not_prepared(model: str) -> None:
    with pytest.raises(ValueError, match="path"):
        target(model)


def test_what_bills_otherwise_or_stores_is_not_sent_on() -> None:
    body = asked({"contents": SAID, "serviceTier": "priority", "store": True, "labels": {"a": "b"}, "newThing": 1})

    assert body == {"contents": SAID, "newThing": 1, "generationConfig": {"maxOutputTokens": 100}}


@pytest.mark.parametrize(("sent", "expected"), [(None, 100), (5, 5), (500, 100)])
def test_the_output_is_bounded(sent: int | None, expected: int) -> None:
    config = {"topK": 3} | ({} if sent is None else {"maxOutputTokens": sent})

    assert asked({"contents": SAID, "generationConfig": config})["generationConfig"]["maxOutputTokens"] == expected


def test_our_signatures_are_opened_and_others_left_out() -> None:
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    parts = [
        {"text": "hm", "thought": True, "thoughtSignature": sealed(OURS)},
        {"text": "a", "thought_signature": sealed(FOREIGN)},
        {**call, "thoughtSignature": "Zm9yZWlnbg=="},
        call,
    ]
    body = asked({"contents": [{"role": "model", "parts": parts}]})

    assert body["contents"][0]["parts"] == [
        {"text": "hm", "thought": True, "thoughtSignature": "EqQB"},
        {"text": "a"},
        {**call, "thoughtSignature": SKIPS_VALIDATION},
        call,
    ]


def test_calls_that_are_signed_stay_as_they_are() -> None:
    call = {"functionCall": {"name": "f"}}
    body = asked({"contents": [{"role": "model", "parts": [{**call, "thoughtSignature": sealed(OURS)}, call]}]})

    assert body["contents"][0]["parts"] == [{**call, "thoughtSignature": "EqQB"}, call]


def test_arguments_are_never_asked_for_in_pieces() -> None:
    calling = {"mode": "ANY", "stream_function_call_arguments": True}
    body = asked({"contents": SAID, "toolConfig": {"functionCallingConfig": calling}})

    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ({"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}, Usage(10, output_tokens=4)),
        (
            {
                "promptTokenCount": 10,
                "cachedContentTokenCount": 6,
                "toolUsePromptTokenCount": 3,
                "candidatesTokenCount": 4,
                "thoughtsTokenCount": 5,
                "totalTokenCount": 22,
            },
            Usage(7, cache_read_tokens=6, output_tokens=9, reasoning_tokens=5),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 9, "thoughtsTokenCount": 5, "totalTokenCount": 19},
            Usage(10, output_tokens=9, reasoning_tokens=5),
        ),
        (
            {"promptTokenCount": 10, "thoughtsTokenCount": 5, "totalTokenCount": 15},
            Usage(10, output_tokens=5, reasoning_tokens=5),
        ),
        ({"promptTokenCount": 10, "totalTokenCount": 12}, Usage(10, output_tokens=2)),
        ({"promptTokenCount": "10", "totalTokenCount": "10"}, Usage(10)),
        (
            {
                "promptTokenCount": 100,
                "candidatesTokenCount": 30,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 90}],
                "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}],
            },
            Usage(10, output_tokens=5, audio_input_tokens=90, audio_output_tokens=25),
        ),
        ({"promptTokenCount": -3, "totalTokenCount": 0}, Usage(-1)),
        ({"promptTokenCount": "many"}, Usage(-1)),
        ({}, None),
        (None, None),
        ({"trafficType": "ON_DEMAND"}, None),
    ],
)
def test_usage_comes_in_disjoint_classes(sent: object, usage: Usage | None) -> None:
    _, read_usage = GEMINI.completion({}, said({"text": "a"}, usageMetadata=sent))

    assert read_usage == usage


@pytest.mark.parametrize(
    ("reason", "ours"), [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SPII", "content_filter"), ("stop", "stop")]
)
def test_reasons_to_end(reason: str, ours: str) -> None:
    completion, _ = GEMINI.completion({}, said({"text": "a"}, reason=reason))

    assert completion.choices[0].finish_reason == ours


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "UNEXPECTED_TOOL_CALL", "NEW_REASON", "PUP_LIMITED_DISABLED"]
)
def test_a_breakdown_is_never_taken_for_an_end(reason: str) -> None:
    with pytest.raises(UpstreamError):
        GEMINI.completion({}, said({"text": "a"}, reason=reason))
    reader = GEMINI.stream()
    assert [chunk.content for chunk in reader.feed(b"data: " + said({"text": "a"}, reason=reason) + b"\n\n")] == ["a"]
    assert reader.is_broken
    with pytest.raises(UpstreamError):
        reader.end()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"candidates":[]}',
        b'{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}',
        said({"text": "a"}, reason="FINISH_REASON_UNSPECIFIED"),
        said({"functionCall": {"args": {}}}),
        said({"functionCall": {"name": "f", "args": "{}"}}),
        said({"text": "a"})[:-5],
        b'{"candidates":[' + b"[" * 5_000,
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        GEMINI.completion({}, body)


def test_a_stream_that_ends_before_every_candidate_has_is_not_whole() -> None:
    reader = GEMINI.stream(n=2)
    reader.feed(b"data: " + said({"text": "a"}) + b"\n\n")
    with pytest.raises(BadAnswer):
        reader.end()


def test_a_prompt_that_was_blocked_is_a_refusal() -> None:
    body = b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":4}}'
    with pytest.raises(UpstreamError) as refused:
        GEMINI.completion({}, body)
    assert refused.value.failure.code is ErrorCode.CONTENT_MODERATION_REJECTED
    with pytest.raises(UpstreamError) as refused:
        GEMINI.stream().feed(b"data: " + body + b"\n\n")
    assert refused.value.failure.code is ErrorCode.CONTENT_MODERATION_REJECTED


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
INVALID_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


@pytest.mark.parametrize(
    ("status", "error", "code", "is_ours", "wait_s"),
    [
        (429, {"status": "RESOURCE_EXHAUSTED", "details": [RETRY]}, ErrorCode.MODEL_OVERLOADED, False, 34.5),
        (503, {"status": "UNAVAILABLE"}, ErrorCode.MODEL_OVERLOADED, False, None),
        (500, {"status": "INTERNAL"}, ErrorCode.GENERATION_FAILED, False, None),
        (504, {"status": "DEADLINE_EXCEEDED"}, ErrorCode.GENERATION_TIMEOUT, False, None),
        (400, {"status": "INVALID_ARGUMENT"}, ErrorCode.INPUT_VALIDATION_ERROR, False, None),
        (400, {"status": "INVALID_ARGUMENT", "details": [INVALID_KEY]}, ErrorCode.MODEL_UNAVAILABLE, True, None),
        (400, {"status": "INVALID_ARGUMENT", "message": "API key not valid."}, ErrorCode.MODEL_UNAVAILABLE, True, None),
        (400, {"status": "FAILED_PRECONDITION"}, ErrorCode.MODEL_UNAVAILABLE, True, None),
        (403, {"status": "PERMISSION_DENIED"}, ErrorCode.MODEL_UNAVAILABLE, True, None),
        (404, {"status": "NOT_FOUND"}, ErrorCode.MODEL_UNAVAILABLE, True, None),
    ],
)
def test_errors(status: int, error: dict[str, Any], code: ErrorCode, is_ours: bool, wait_s: float | None) -> None:
    document = {"error": {"code": status, "message": "no", **error}}
    for body in (document, [document]):
        failure = GEMINI.failure(status, {}, json.dumps(body).encode(), ())
        assert (failure.code, failure.is_ours, failure.retry_after_s) == (code, is_ours, wait_s)
    # The same within a stream, whose HTTP status is 200.
    with pytest.raises(UpstreamError) as told:
        GEMINI.stream().feed(b"data: " + json.dumps(document).encode() + b"\r\n\r\n")
    assert (told.value.failure.code, told.value.failure.is_ours) == (code, is_ours)


def test_an_error_without_words_is_read_by_its_status() -> None:
    assert GEMINI.failure(429, {}, b"<html>", ()).code is ErrorCode.MODEL_OVERLOADED
    assert GEMINI.failure(500, {}, b"", ()).code is ErrorCode.GENERATION_FAILED
    assert as_dict(GEMINI.failure(404, {}, b"[]", ()))["is_our_model_name"]
