"""Replicate's predictions (replicate.com/docs/reference/http): submit, poll, cancel, and callbacks signed as Standard
Webhooks are.

Replicate has no idempotency key and no field for a caller's token. What it repeats in every prediction is the address
that it is to call, which ends in the token: by that a prediction is found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence

from waypost.kit.errors import ErrorCode
from waypost.providers.error_map import ProviderError, failure_of, read_error, retry_after_s
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
    count_of,
    job_id_of,
    json_call,
    milli_of,
    object_of,
    outputs_of,
    text_of,
)
from waypost.providers.job_signature import standard_webhook
from waypost.providers.job_target import changed_input
from waypost.providers.kind import BadAnswer, ErrorRule, Failure, UpstreamError
from waypost.wire.canonical import Usage

LIFETIME_S_MIN = 5  # of `Cancel-After`

_OFFICIAL = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_DEPLOYMENT = re.compile(r"deployments/([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)")
_STATES = {
    "starting": JobState.QUEUED,
    "processing": JobState.RUNNING,
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "canceled": JobState.CANCELED,
    "aborted": JobState.CANCELED,  # before it ran
}
# A prediction that failed says so in prose. In it stand codes such as (E005), and words that have not changed in years.
_SAID = (
    (("e005", "flagged as sensitive", "nsfw", "safety", "moderation"), ErrorCode.CONTENT_MODERATION_REJECTED),
    (("e003", "e004", "high demand", "interrupted; please retry"), ErrorCode.MODEL_OVERLOADED),
    (("timed out", "timeout", "took too long"), ErrorCode.GENERATION_TIMEOUT),
    (("e006", "invalid input", "validation error"), ErrorCode.INPUT_VALIDATION_ERROR),
)


class Replicate:
    """See `providers.job.JobKind`."""

    __slots__ = ()
    credential_scheme = "Bearer"

    def takes_callbacks(self, target: JobTarget) -> bool:  # noqa: ARG002
        return True

    def repeats_safely(self, target: JobTarget) -> bool:  # noqa: ARG002
        return False

    def submit(self, submission: Submission, target: JobTarget) -> JobCall:
        body: dict[str, object] = {"input": changed_input(submission.input, target.changes)}
        model = target.upstream_model
        deployment = _DEPLOYMENT.fullmatch(model)
        if deployment is not None:
            path = f"/v1/deployments/{deployment[1]}/predictions"
        elif _OFFICIAL.fullmatch(model) is not None:
            path = f"/v1/models/{model}/predictions"
        else:
            path = "/v1/predictions"
            body["version"] = model.rpartition(":")[2]
        if submission.callback_url:
            body["webhook"] = submission.callback_url
            body["webhook_events_filter"] = ["completed"]
        headers: tuple[tuple[str, str], ...] = ()
        if submission.deadline_s >= LIFETIME_S_MIN:
            headers = (("cancel-after", f"{submission.deadline_s}s"),)
        return json_call("POST", target.path_prefix + path, body, headers=headers)

    def read_submit(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status not in (200, 201, 202):
            raise UpstreamError(_refusal(answer, target.error_rules))
        return _job_of(object_of(answer.body), target.error_rules)

    def status(self, job_id: str, target: JobTarget) -> JobCall:
        return json_call("GET", f"{target.path_prefix}/v1/predictions/{job_id}")

    def read_status(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status == 404:
            return Job("", JobState.GONE)
        if answer.status != 200:
            raise UpstreamError(_refusal(answer, target.error_rules))
        return _job_of(object_of(answer.body), target.error_rules)

    def result(self, job_id: str, target: JobTarget) -> JobCall:
        return self.status(job_id, target)

    def read_result(self, answer: JobAnswer, target: JobTarget) -> Job:
        return self.read_status(answer, target)

    def upload(self, content: bytes, content_type: str, target: JobTarget) -> JobCall | None:
        """As `multipart/form-data` (RFC 7578), in a part named `content`; Replicate forgets it after a day."""
        boundary = f"waypost-{hashlib.sha256(content).hexdigest()[:32]}"
        lines = f'--{boundary}\r\ncontent-disposition: form-data; name="content"; filename="input"\r\n'
        lines += f"content-type: {content_type}\r\n\r\n"
        body = lines.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = (("accept", "application/json"), ("content-type", f"multipart/form-data; boundary={boundary}"))
        return JobCall("POST", f"{target.path_prefix}/v1/files", headers, body)

    def read_upload(self, answer: JobAnswer, target: JobTarget) -> str:
        if answer.status not in (200, 201):
            raise UpstreamError(_refusal(answer, target.error_rules))
        urls = object_of(answer.body).get("urls")
        address = text_of(urls.get("get")) if isinstance(urls, dict) else ""
        if not address:
            raise BadAnswer
        return address

    def cancel(self, job_id: str, target: JobTarget) -> JobCall | None:
        return json_call("POST", f"{target.path_prefix}/v1/predictions/{job_id}/cancel")

    def look_up(self, token: str, target: JobTarget) -> JobCall | None:  # noqa: ARG002
        return json_call("GET", f"{target.path_prefix}/v1/predictions")  # the last hundred, newest first

    def read_look_up(self, answer: JobAnswer, token: str, target: JobTarget) -> Job | None:
        if answer.status != 200:
            raise UpstreamError(_refusal(answer, target.error_rules))
        results = object_of(answer.body).get("results")
        if not isinstance(results, list):
            raise BadAnswer
        for each in results:
            if isinstance(each, dict) and text_of(each.get("webhook")).endswith(f"/{token}"):
                return _job_of(each, target.error_rules)
        return None

    def verify(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: CallbackKeys,
        now_s: int,
        target: JobTarget,  # noqa: ARG002
    ) -> Signature:
        return standard_webhook(headers, body, keys.secrets, now_s)

    def read_callback(self, headers: Mapping[str, str], body: bytes, target: JobTarget) -> Callback:  # noqa: ARG002
        job_id = ""
        with contextlib.suppress(BadAnswer):
            job_id = job_id_of(object_of(body).get("id"))
        return Callback(headers.get("webhook-id", "")[:128], job_id)


def _job_of(prediction: Mapping[str, object], rules: Sequence[ErrorRule]) -> Job:
    state = _STATES.get(text_of(prediction.get("status")))
    if state is None:
        raise BadAnswer
    outputs = outputs_of(prediction.get("output"), is_plain=True) if state is JobState.SUCCEEDED else ()
    metrics = prediction.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    return Job(
        id=job_id_of(prediction.get("id")),
        state=state,
        outputs=outputs,
        made=_made(metrics),
        metered_ms=milli_of(metrics.get("predict_time")),
        failure=_failure_of(prediction.get("error"), rules) if state is JobState.FAILED else None,
        token=text_of(prediction.get("webhook")).rpartition("/")[2],
    )


def _made(metrics: Mapping[str, object]) -> Usage:
    """What official models tell of their outputs; others tell nothing but the time."""
    images = count_of(metrics.get("image_output_count")) or count_of(metrics.get("image_count"))
    video_ms = milli_of(metrics.get("video_output_duration_seconds"))
    return Usage(
        images=images or 0,
        duration_ms=video_ms or milli_of(metrics.get("audio_output_duration_seconds")) or 0,
    )


def _failure_of(said: object, rules: Sequence[ErrorRule]) -> Failure:
    """Of a prediction that failed. It has no status; configured rules see 200."""
    message = text_of(said)
    if rules:
        failure = failure_of(ProviderError(200, message=message), rules)
        if failure.code is not ErrorCode.GENERATION_FAILED:
            return failure
    words = message.lower()
    for signs, code in _SAID:
        if any(sign in words for sign in signs):
            return Failure(code)
    return Failure(ErrorCode.GENERATION_FAILED)


def _refusal(answer: JobAnswer, rules: Sequence[ErrorRule]) -> Failure:
    return failure_of(read_error(answer.status, answer.body), rules, retry_after_s(answer.headers))
