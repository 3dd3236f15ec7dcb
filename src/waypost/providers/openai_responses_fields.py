"""What providers that speak OpenAI's Responses format send: the items of an answer, its usage, its failures."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import decode_error, error_of, failure_of
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, Target, UpstreamError
from waypost.providers.openai_fields import ABSENT, is_error, usage_of
from waypost.wire.canonical import Citation, Signature, Usage
from waypost.wire.logprobs import TokenLogprob

KIND = "openai-responses"
_PARTS_APART = "\n\n"  # several parts of one summary are paragraphs of one text

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode

# Failures under names that chat completions do not have.
FAILURES = {
    "server_error": ErrorCode.GENERATION_FAILED,
    "rate_limit_exceeded": ErrorCode.MODEL_OVERLOADED,
    "invalid_prompt": ErrorCode.CONTENT_MODERATION_REJECTED,
    "bio_policy": ErrorCode.CONTENT_MODERATION_REJECTED,
    "misalignment_policy_violation": ErrorCode.CONTENT_MODERATION_REJECTED,
    "image_content_policy_violation": ErrorCode.CONTENT_MODERATION_REJECTED,
    "invalid_image": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "invalid_image_format": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "invalid_base64_image": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "image_parse_error": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "unsupported_image_media_type": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "invalid_image_mode": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "invalid_image_url": ErrorCode.FILE_NOT_FOUND,
    "failed_to_download_image": ErrorCode.FILE_NOT_FOUND,
    "image_file_not_found": ErrorCode.FILE_NOT_FOUND,
    "image_too_large": ErrorCode.INPUT_VALIDATION_ERROR,
    "image_too_small": ErrorCode.INPUT_VALIDATION_ERROR,
    "image_file_too_large": ErrorCode.INPUT_VALIDATION_ERROR,
    "empty_image_file": ErrorCode.INPUT_VALIDATION_ERROR,
}
_USAGE_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}


class SentAnnotation(msgspec.Struct, gc=False):
    type: str = ""
    url: str | None = None
    title: str | None = None
    start_index: int | None = None
    end_index: int | None = None


class SentPart(msgspec.Struct, gc=False):
    """A part of a message, a summary or reasoning."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    annotations: list[SentAnnotation] | None = None
    logprobs: list[TokenLogprob] | None = None


class SentItem(msgspec.Struct, gc=False):
    type: str = ""
    id: str | None = None
    content: list[SentPart] | None = None
    summary: list[SentPart] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class SentReason(msgspec.Struct, gc=False):
    reason: str | None = None


class SentResponse(msgspec.Struct, gc=False):
    id: str | None = None
    status: str | None = None
    output: list[SentItem] | None = None
    incomplete_details: SentReason | None = None
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


def origin_of(target: Target | None) -> str:
    """Who can read encrypted reasoning again: the accounts of the one provider that wrote it."""
    return f"{KIND} {target.provider}" if target is not None else KIND


def signature_of(item: SentItem, origin: str) -> Signature | None:
    return Signature(origin, item.encrypted_content) if item.encrypted_content else None


def reasoning_of(item: SentItem) -> str:
    """The summary, or the reasoning itself where a model shows it."""
    parts = item.summary or item.content or ()
    return _PARTS_APART.join([part.text for part in parts if part.text])


def citations_of(annotations: Sequence[SentAnnotation] | None) -> Sequence[Citation]:
    return [
        Citation(
            "web_search_result_location",
            url=each.url,
            title=each.title or "",
            text_start=-1 if each.start_index is None else each.start_index,
            text_end=-1 if each.end_index is None else each.end_index,
        )
        for each in annotations or ()
        if each.type == "url_citation" and each.url
    ]


def finish_reason_of(response: SentResponse, *, has_calls: bool) -> str:
    """Ours for how a response ended. Raises BadAnswer for one that has not."""
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details is not None else None
        return "content_filter" if reason == "content_filter" else "length"
    if response.status not in ("completed", None):
        raise BadAnswer
    return "tool_calls" if has_calls else "stop"


def check_failed(response: SentResponse, rules: Sequence[ErrorRule]) -> None:
    """Raises UpstreamError for a response that says that it failed."""
    if response.error is not ABSENT and is_error(response.error):
        raise UpstreamError(failure_in(decode_error(response.error), rules))
    if response.status in ("failed", "cancelled"):
        raise UpstreamError(Failure(ErrorCode.GENERATION_FAILED))


def failure_in(error: object, rules: Sequence[ErrorRule]) -> Failure:
    """Of an error object within an answer with status 200."""
    return failure_of(error_of(200, {"error": error}), rules, by_code=FAILURES)


def usage_in(sent: msgspec.Raw) -> Usage | None:
    """The usage object in disjoint classes; None when absent, null or without any count."""
    if not len(sent):
        return None
    try:
        counts = _decode_object(sent) or {}
    except (ValueError, RecursionError):
        return usage_of(sent)
    renamed = {_USAGE_NAMES[name]: value for name, value in counts.items() if name in _USAGE_NAMES}
    return usage_of(msgspec.Raw(_encode(renamed))) if renamed else None
