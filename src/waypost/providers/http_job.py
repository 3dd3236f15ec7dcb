"""Any provider that takes a job by POST and tells its state by GET, as `[providers.job]` describes it: its paths, the
fields of its answers, its words for states, and how it signs callbacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from urllib.parse import quote

from waypost.providers.error_map import ERROR_BYTES_MAX, ProviderError, failure_of, retry_after_s
from waypost.providers.job import (
    Callback,
    CallbackKeys,
    Job,
    JobAnswer,
    JobCall,
    JobDescription,
    JobState,
    JobTarget,
    Signature,
    Submission,
    count_of,
    document_of,
    job_id_of,
    json_call,
    milli_of,
    outputs_of,
    text_of,
)
from waypost.providers.job_signature import plain_hmac
from waypost.providers.job_target import changed_input
from waypost.providers.kind import BadAnswer, Failure, UpstreamError
from waypost.wire.canonical import Usage

# Words that providers use; `states` in the description replaces those of the states it names.
STATES: Mapping[JobState, tuple[str, ...]] = {
    JobState.QUEUED: ("queued", "pending", "created", "submitted", "accepted", "waiting", "starting", "in_queue"),
    JobState.RUNNING: ("running", "processing", "in_progress", "generating", "started"),
    JobState.SUCCEEDED: ("succeeded", "success", "successful", "completed", "complete", "done", "finished"),
    JobState.FAILED: ("failed", "failure", "error", "errored", "rejected", "expired"),
    JobState.CANCELED: ("canceled", "cancelled", "aborted"),
}


class HttpJob:
    """See `providers.job.JobKind`. Every target has a description."""

    __slots__ = ()
    credential_scheme = "Bearer"

    def takes_callbacks(self, target: JobTarget) -> bool:
        return bool(_described(target).callback_field)

    def repeats_safely(self, target: JobTarget) -> bool:
        return bool(_described(target).idempotency_header)

    def submit(self, submission: Submission, target: JobTarget) -> JobCall:
        told = _described(target)
        fields = changed_input(submission.input, target.changes)
        body: dict[str, object] = {told.input_field: fields} if told.input_field else dict(fields)
        if told.model_field:
            body[told.model_field] = target.upstream_model
        if told.token_field:
            body[told.token_field] = submission.token
        if told.callback_field and submission.callback_url:
            body[told.callback_field] = submission.callback_url
        headers = ((told.idempotency_header.lower(), submission.token),) if told.idempotency_header else ()
        return json_call("POST", _path(told.submit_path, target, token=submission.token), body, headers=headers)

    def read_submit(self, answer: JobAnswer, target: JobTarget) -> Job:
        if not 200 <= answer.status <= 299:
            raise UpstreamError(_refusal(answer, target))
        document = document_of(answer.body)
        job_id = job_id_of(at(document, _described(target).id))
        try:
            return _job_of(document, target)
        except BadAnswer:
            return Job(job_id, JobState.QUEUED)  # it was taken; how it fares, its status tells

    def status(self, job_id: str, target: JobTarget) -> JobCall:
        return json_call("GET", _path(_described(target).status_path, target, job_id=job_id))

    def read_status(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status in (404, 410):
            return Job("", JobState.GONE)
        if not 200 <= answer.status <= 299:
            raise UpstreamError(_refusal(answer, target))
        return _job_of(document_of(answer.body), target)

    def result(self, job_id: str, target: JobTarget) -> JobCall:
        told = _described(target)
        return json_call("GET", _path(told.result_path or told.status_path, target, job_id=job_id))

    def read_result(self, answer: JobAnswer, target: JobTarget) -> Job:
        if answer.status in (404, 410):
            return Job("", JobState.GONE)
        if not 200 <= answer.status <= 299:
            raise UpstreamError(_refusal(answer, target))
        document, told = document_of(answer.body), _described(target)
        return Job(
            id="",
            state=JobState.SUCCEEDED,
            outputs=outputs_of(at(document, told.outputs), is_plain=True),
            made=_made(document, told),
            metered_ms=milli_of(at(document, told.metered)) if told.metered else None,
        )

    def upload(self, content: bytes, content_type: str, target: JobTarget) -> JobCall | None:  # noqa: ARG002
        return None

    def read_upload(self, answer: JobAnswer, target: JobTarget) -> str:  # noqa: ARG002
        raise AssertionError("nothing is uploaded")

    def cancel(self, job_id: str, target: JobTarget) -> JobCall | None:
        told = _described(target)
        if not told.cancel_path:
            return None
        return json_call(told.cancel_method, _path(told.cancel_path, target, job_id=job_id))

    def look_up(self, token: str, target: JobTarget) -> JobCall | None:
        told = _described(target)
        return json_call("GET", _path(told.look_up_path, target, token=token)) if told.look_up_path else None

    def read_look_up(self, answer: JobAnswer, token: str, target: JobTarget) -> Job | None:
        if answer.status == 404:
            return None
        if not 200 <= answer.status <= 299:
            raise UpstreamError(_refusal(answer, target))
        told = _described(target)
        found = document_of(answer.body)
        found = at(found, told.jobs) if told.jobs else found
        for each in found if isinstance(found, list) else [found]:
            # Where it repeats the token, the token decides; else it was asked for this one alone.
            if isinstance(each, dict) and (not told.token_field or text_of(at(each, told.token_field)) == token):
                job_id_of(at(each, told.id))
                return _job_of(each, target)
        return None

    def verify(
        self, headers: Mapping[str, str], body: bytes, keys: CallbackKeys, now_s: int, target: JobTarget
    ) -> Signature:
        return plain_hmac(headers, body, keys.secrets, now_s, _described(target))

    def read_callback(self, headers: Mapping[str, str], body: bytes, target: JobTarget) -> Callback:
        told = _described(target)
        job_id = ""
        with contextlib.suppress(BadAnswer):
            job_id = job_id_of(at(document_of(body), told.id))
        return Callback(headers.get(told.event_header.lower(), "")[:128] if told.event_header else "", job_id)


def at(document: object, place: str) -> object:
    """What stands at a place such as `data.0.id`; None where there is nothing. "" is the document."""
    for step in place.split(".") if place else ():
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isascii() and step.isdigit() and int(step[:6]) < len(document):
            document = document[int(step[:6])]
        else:
            return None
    return document


def _described(target: JobTarget) -> JobDescription:
    assert target.description is not None, "a provider of this kind is refused without one"
    return target.description


def _path(template: str, target: JobTarget, *, job_id: str = "", token: str = "") -> str:
    """Only whole values take the place of a name, each as one segment or one query value."""
    path = template.replace("{model}", quote(target.upstream_model, safe="/" if "?" not in template else ""))
    return target.path_prefix + path.replace("{id}", quote(job_id, safe="")).replace("{token}", quote(token, safe=""))


def _job_of(document: object, target: JobTarget) -> Job:
    told = _described(target)
    state = _state_of(at(document, told.state), told)
    is_done = state is JobState.SUCCEEDED
    is_here = not told.result_path
    return Job(
        id=_id_of(document, told),
        state=state,
        outputs=outputs_of(at(document, told.outputs), is_plain=True) if is_done and is_here else (),
        has_outputs=is_here,
        made=_made(document, told),
        metered_ms=milli_of(at(document, told.metered)) if told.metered else None,
        failure=_failure_of(document, target) if state is JobState.FAILED else None,
        token=text_of(at(document, told.token_field)) if told.token_field else "",
    )


def _id_of(document: object, told: JobDescription) -> str:
    """ "" where it is not repeated: who asked knows it."""
    value = at(document, told.id)
    return "" if value is None else job_id_of(value)


def _state_of(said: object, told: JobDescription) -> JobState:
    word = text_of(said).lower()
    for state, words in STATES.items():
        if word in (each.lower() for each in told.states.get(state.value, words)):
            return state
    raise BadAnswer


def _made(document: object, told: JobDescription) -> Usage:
    images = count_of(at(document, told.images)) if told.images else None
    duration_ms = milli_of(at(document, told.seconds)) if told.seconds else None
    return Usage(images=images or 0, duration_ms=duration_ms or 0)


def _failure_of(document: object, target: JobTarget) -> Failure:
    """Of a job that failed: there is no status, and rules see 200."""
    return failure_of(_error_of(200, document, target), target.error_rules)


def _refusal(answer: JobAnswer, target: JobTarget) -> Failure:
    try:
        document = document_of(answer.body[:ERROR_BYTES_MAX])
    except BadAnswer:
        document = None
    error = _error_of(answer.status, document, target)
    return failure_of(error, target.error_rules, retry_after_s(answer.headers))


def _error_of(status: int, document: object, target: JobTarget) -> ProviderError:
    told = _described(target)
    code = text_of(at(document, told.error_code)) if told.error_code else ""
    message = text_of(at(document, told.error_message)) if told.error_message else ""
    return ProviderError(status, code, code, message)
