"""fal's queue (docs.fal.ai, queue API): submit, poll, fetch the result, cancel, and callbacks signed with Ed25519.

fal has no idempotency key, and lists requests to administrators only: a submission that may have arrived is found by
its callback or not at all. Addresses are built from the model's name as fal documents them, never followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from urllib.parse import quote

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import ERROR_BYTES_MAX, ProviderError, failure_of, retry_after_s
from waypost.providers.job import (
    Callback,
    CallbackKeys,
    Job,
    JobAnswer,
    JobCall,
    JobState,
    JobTarget,
    Signature,
    Submission,
    document_of,
    job_id_of,
    json_call,
    milli_of,
    object_of,
    outputs_of,
    text_of,
)
from waypost.providers.job_signature import fal_webhook
from waypost.providers.job_target import changed_input
from waypost.providers.kind import BadAnswer, Failure, UpstreamError
from waypost.wire.canonical import Usage

# Outputs are fetched as soon as they are there; nobody else is to find them later.
_LIFECYCLE = ("x-fal-object-lifecycle-preference", '{"expiration_duration_seconds": 3600}')
_NAMESPACES = ("workflows", "comfy")  # before owner and name
_STATES = {
    "IN_QUEUE": JobState.QUEUED,
    "IN_PROGRESS": JobState.RUNNING,
    "COMPLETED": JobState.SUCCEEDED,
    "CANCELED": JobState.CANCELED,
    "CANCELLED": JobState.CANCELED,
}
_CANCELLED = ("client_cancelled", "request_cancelled")
_INVALID, _UNAVAILABLE = ErrorCode.INPUT_VALIDATION_ERROR, ErrorCode.MODEL_UNAVAILABLE
# docs.fal.ai: model errors and request errors, by their type.
FAILURES = {
    "content_policy_violation": ErrorCode.CONTENT_MODERATION_REJECTED,
    "generation_timeout": ErrorCode.GENERATION_TIMEOUT,
    "request_timeout": ErrorCode.GENERATION_TIMEOUT,
    "startup_timeout": ErrorCode.MODEL_OVERLOADED,
    "runner_scheduling_failure": ErrorCode.MODEL_OVERLOADED,
    "runner_connection_timeout": _UNAVAILABLE,
    "runner_disconnected": _UNAVAILABLE,
    "runner_connection_refused": _UNAVAILABLE,
    "runner_connection_error": _UNAVAILABLE,
    "runner_incomplete_response": _UNAVAILABLE,
    "runner_server_error": ErrorCode.GENERATION_FAILED,
    "internal_server_error": ErrorCode.GENERATION_FAILED,
    "internal_error": ErrorCode.GENERATION_FAILED,
    "downstream_service_error": ErrorCode.GENERATION_FAILED,
    "downstream_service_unavailable": _UNAVAILABLE,
    "no_media_generated": ErrorCode.GENERATION_FAILED,
    "file_download_error": ErrorCode.FILE_NOT_FOUND,
    "image_load_error": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "unsupported_image_format": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "unsupported_audio_format": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "unsupported_video_format": ErrorCode.FILE_FORMAT_UNSUPPORTED,
    "file_too_large": _INVALID,
    "bad_request": _INVALID,
}


class Fal:
    """See `providers.job.JobKind`."""

    __slots__ = ()
    credential_scheme = "Key"

    def takes_callbacks(self, target: JobTarget) -> bool:  # noqa: ARG002
        return True

    def repeats_safely(self, target: JobTarget) -> bool:  # noqa: ARG002
        return False

    def submit(self, submission: Submission, target: JobTarget) -> JobCall:
        path = f"{target.path_prefix}/{quote(target.upstream_model)}"
        if submission.callback_url:
            path += f"?fal_webhook={quote(submission.callback_url, safe='')}"
        return json_call("POST", path, changed_input(submission.input, target.changes), headers=(_LIFECYCLE,))

    def read_submit(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status not in (200, 201, 202):
            raise UpstreamError(_refusal(answer, target))
        return Job(job_id_of(object_of(answer.body).get("request_id")), JobState.QUEUED)

    def status(self, job_id: str, target: JobTarget) -> JobCall:
        return json_call("GET", f"{_requests(target)}/{job_id}/status")

    def read_status(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status == 404:
            return Job("", JobState.GONE)
        if answer.status not in (200, 202):
            raise UpstreamError(_refusal(answer, target))
        told = object_of(answer.body)
        state = _STATES.get(text_of(told.get("status")))
        if state is None:
            raise BadAnswer
        if text_of(told.get("error_type")) in _CANCELLED:
            state = JobState.CANCELED
        return Job(_id_of(told), state, has_outputs=False)

    def result(self, job_id: str, target: JobTarget) -> JobCall:
        return json_call("GET", f"{_requests(target)}/{job_id}")

    def read_result(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status == 404 and b"x-fal-error-type" not in answer.headers:
            return Job("", JobState.GONE)
        metered_ms = milli_of(answer.headers.get(b"x-fal-billable-units", b"").decode("latin-1"))
        if answer.status == 200:
            result = document_of(answer.body)
            outputs = outputs_of(result, is_plain=False)
            return Job("", JobState.SUCCEEDED, outputs, made=_made(result), metered_ms=metered_ms)
        error = _read_error(answer)
        if error.code in _CANCELLED:
            return Job("", JobState.CANCELED, metered_ms=metered_ms)
        failure = failure_of(error, target.error_rules, retry_after_s(answer.headers), by_code=FAILURES)
        # The model's own error comes with a type or as a validation error; without one it is the front door's, and
        # says nothing about the job.
        if answer.status == 422 or (error.code and answer.status != 429):
            return Job("", JobState.FAILED, metered_ms=metered_ms, failure=failure)
        raise UpstreamError(failure)

    def upload(self, content: bytes, content_type: str, target: JobTarget) -> JobCall | None:  # noqa: ARG002
        return None

    def read_upload(self, answer: JobAnswer, target: JobTarget) -> str:  # noqa: ARG002
        raise AssertionError("nothing is uploaded")

    def cancel(self, job_id: str, target: JobTarget) -> JobCall | None:
        return json_call("PUT", f"{_requests(target)}/{job_id}/cancel")

    def look_up(self, token: str, target: JobTarget) -> JobCall | None:  # noqa: ARG002
        return None

    def read_look_up(self, answer: JobAnswer, token: str, target: JobTarget) -> Job | None:  # noqa: ARG002
        raise AssertionError("fal lists no requests")

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: CallbackKeys,
        now_s: int,
        target: JobTarget,  # noqa: ARG002
    ) -> Signature:
        return fal_webhook(headers, body, keys.public_keys, now_s)

    def read_callback(self, headers: Mapping[str, str], body: bytes, target: JobTarget) -> Callback:  # noqa: ARG002
        job_id = ""
        with contextlib.suppress(BadAnswer):
            job_id = job_id_of(object_of(body).get("request_id"))
        # It calls once for a request, and again with the same one when nobody answered.
        return Callback(job_id, job_id)


def _requests(target: JobTarget) -> str:
    """Below owner and name; what further stands in a model's name is for the submission alone."""
    parts = target.upstream_model.split("/")
    kept = 3 if parts[0] in _NAMESPACES else 2
    return f"{target.path_prefix}/{quote('/'.join(parts[:kept]))}/requests"


def _id_of(told: Mapping[str, object]) -> str:
    return job_id_of(told["request_id"]) if "request_id" in told else ""


def _made(result: object) -> Usage:
    """Some models tell how long their video or sound is, in seconds."""
    if not isinstance(result, dict):
        return Usage()
    for place in (result, result.get("video"), result.get("audio")):
        if isinstance(place, dict):
            duration_ms = milli_of(place.get("duration"))
            if duration_ms:
                return Usage(duration_ms=duration_ms)
    return Usage()


def _refusal(answer: JobAnswer, target: JobTarget) -> Failure:
    error = _read_error(answer)
    return failure_of(error, target.error_rules, retry_after_s(answer.headers), by_code=FAILURES)


def _read_error(answer: JobAnswer) -> ProviderError:
    """`detail` is a list of errors with a type each, or a sentence beside `error_type`."""
    kind = answer.headers.get(b"x-fal-error-type", b"").decode("latin-1")
    try:
        document = document_of(answer.body[:ERROR_BYTES_MAX])
    except BadAnswer:
        return ProviderError(answer.status, kind, kind)
    if not isinstance(document, dict):
        return ProviderError(answer.status, kind, kind)
    detail = document.get("detail")
    if isinstance(detail, list):
        first = next((each for each in detail if isinstance(each, dict)), {})
        kind = text_of(first.get("type")) or kind
        return ProviderError(answer.status, kind, kind, text_of(first.get("msg")))
    kind = text_of(document.get("error_type")) or kind
    return ProviderError(answer.status, kind, kind, text_of(detail))
