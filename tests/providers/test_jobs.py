"""What providers of jobs are asked, and what their recorded answers mean."""

from __future__ import annotations

import contextlib
import json
import random

import msgspec
import pytest

from tests.providers.job_samples import CALLBACK, DESCRIPTION, FOLDER, TOKEN, answered, said, target
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.policy.catalogue import ErrorRule, RequestChanges
from waypost.providers import JOB_KINDS
from waypost.providers.job import (
    JOB_ID,
    OUTPUTS_MAX,
    JobAnswer,
    JobKind,
    JobState,
    JobTarget,
    Output,
    Submission,
    milli_of,
    outputs_of,
)
from waypost.providers.kind import BadAnswer, UpstreamError
from waypost.wire.canonical import Usage

REPLICATE, FAL, PLAIN = JOB_KINDS["replicate"], JOB_KINDS["fal"], JOB_KINDS["http-job"]
INPUT = {"prompt": msgspec.Raw(b'"a fox"'), "n": msgspec.Raw(b"2")}
FLUX = target("black-forest-labs/flux-1.1-pro")
FAL_FLUX = target("fal-ai/flux/dev", prefix="/q")
TASKS = target("clip-1", description=DESCRIPTION)


def submitted(kind: JobKind, to: JobTarget, **fields: object) -> tuple[str, str, dict[str, str], object]:
    call = kind.submit(Submission(INPUT, TOKEN, **fields), to)  # type: ignore[arg-type]
    return call.method, call.path, dict(call.headers), json.loads(call.body)


# What is asked.


def test_a_replicate_prediction_is_asked_for_by_official_model_version_or_deployment() -> None:
    fields = {"input": {"prompt": "a fox", "n": 2}}
    method, path, _, body = submitted(REPLICATE, FLUX)
    assert (method, path, body) == ("POST", "/v1/models/black-forest-labs/flux-1.1-pro/predictions", fields)

    for named in ("owner/name:5c7d5dc6", "5c7d5dc6"):
        _, path, _, body = submitted(REPLICATE, target(named))
        assert (path, body) == ("/v1/predictions", fields | {"version": "5c7d5dc6"})

    _, path, _, _ = submitted(REPLICATE, target("deployments/acme/fast"))
    assert path == "/v1/deployments/acme/fast/predictions"


def test_replicate_is_given_the_address_to_call_and_a_lifetime() -> None:
    _, _, headers, body = submitted(REPLICATE, FLUX, callback_url=CALLBACK, deadline_s=3600)
    assert isinstance(body, dict)
    assert (body["webhook"], body["webhook_events_filter"]) == (CALLBACK, ["completed"])
    assert headers["cancel-after"] == "3600s"


def test_a_fal_request_has_its_input_at_the_top_and_its_callback_in_the_query() -> None:
    method, path, headers, body = submitted(FAL, FAL_FLUX, callback_url=CALLBACK)
    assert method == "POST"
    assert path.startswith("/q/fal-ai/flux/dev?fal_webhook=https%3A%2F%2Fai.example.org%2Fv1%2Fcallbacks%2F")
    assert body == {"prompt": "a fox", "n": 2}
    assert json.loads(headers["x-fal-object-lifecycle-preference"]) == {"expiration_duration_seconds": 3600}


def test_fal_is_asked_about_a_request_under_owner_and_name_alone() -> None:
    assert FAL.status("r-1", FAL_FLUX).path == "/q/fal-ai/flux/requests/r-1/status"
    assert FAL.result("r-1", FAL_FLUX).path == "/q/fal-ai/flux/requests/r-1"
    assert FAL.status("r-1", target("workflows/acme/x/y")).path == "/workflows/acme/x/requests/r-1/status"
    assert FAL.status("r-1", target("acme/x?y#z")).path == "/acme/x%3Fy%23z/requests/r-1/status"
    cancel = FAL.cancel("r-1", FAL_FLUX)
    assert cancel is not None
    assert (cancel.method, cancel.path) == ("PUT", "/q/fal-ai/flux/requests/r-1/cancel")


def test_a_described_provider_is_asked_as_described() -> None:
    method, path, headers, body = submitted(PLAIN, TASKS, callback_url=CALLBACK)
    assert (method, path) == ("POST", "/v2/clip-1/tasks")
    assert body == {"prompt": "a fox", "n": 2, "reference": TOKEN, "notify": CALLBACK}
    assert headers["idempotency-key"] == TOKEN
    cancel, look_up = PLAIN.cancel("7", TASKS), PLAIN.look_up(TOKEN, TASKS)
    assert cancel is not None
    assert look_up is not None
    assert (cancel.method, cancel.path) == ("DELETE", "/v2/tasks/7")
    assert look_up.path == f"/v2/tasks?reference={TOKEN}"
    assert PLAIN.repeats_safely(TASKS)
    assert not REPLICATE.repeats_safely(FLUX)
    assert not FAL.repeats_safely(FAL_FLUX)


@pytest.mark.parametrize(("kind", "to"), [(REPLICATE, FLUX), (FAL, FAL_FLUX), (PLAIN, TASKS)])
def test_the_deployment_renames_drops_and_sets_fields_of_the_input(kind: JobKind, to: JobTarget) -> None:
    changes = RequestChanges({"safe": msgspec.Raw(b"true")}, {"n": "num_outputs"}, ("prompt",))
    _, _, _, body = submitted(kind, replace(to, changes=changes))
    assert isinstance(body, dict)
    fields = body.get("input", body)
    assert (fields["num_outputs"], fields["safe"]) == (2, True)
    assert not {"n", "prompt"} & set(fields)


def test_a_file_is_uploaded_to_replicate_as_a_form() -> None:
    call = REPLICATE.upload(b"\x89PNG\r\n--", "image/png", FLUX)
    assert call is not None
    assert (call.method, call.path) == ("POST", "/v1/files")
    kind, _, boundary = dict(call.headers)["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    head, found, rest = call.body.partition(b"\r\n\r\n")
    assert head.startswith(f'--{boundary}\r\ncontent-disposition: form-data; name="content"'.encode())
    assert rest == b"\x89PNG\r\n--" + f"\r\n--{boundary}--\r\n".encode()
    taken = said({"id": "f", "urls": {"get": "https://api.replicate.com/v1/files/f"}}, 201)
    assert found
    assert REPLICATE.read_upload(taken, FLUX) == "https://api.replicate.com/v1/files/f"
    with pytest.raises(BadAnswer):
        REPLICATE.read_upload(said({"id": "f"}, 201), FLUX)
    with pytest.raises(UpstreamError):
        REPLICATE.read_upload(said({"detail": "CANARY"}, 413), FLUX)


# What answers mean.


def test_a_replicate_prediction_is_read_from_its_start_to_its_outputs() -> None:
    started = REPLICATE.read_submit(answered("replicate-started.json", 201), FLUX)
    assert (started.id, started.state, started.token) == ("gm3qorzdhgbfurvjtvhg6dckhu", JobState.QUEUED, TOKEN)

    done = REPLICATE.read_status(answered("replicate-succeeded.json"), FLUX)
    assert done.state is JobState.SUCCEEDED
    assert [output.url.rpartition("/")[2] for output in done.outputs] == ["out-0.webp", "out-1.webp"]
    assert (done.made, done.metered_ms) == (Usage(images=2), 3250)

    video = REPLICATE.read_status(answered("replicate-video.json"), FLUX)
    assert (video.made, video.metered_ms, len(video.outputs)) == (Usage(duration_ms=5040), 72_500, 1)


def test_a_failed_prediction_is_a_canonical_code_and_what_was_metered() -> None:
    job = REPLICATE.read_status(answered("replicate-failed.json"), FLUX)
    assert (job.state, job.metered_ms) == (JobState.FAILED, 1500)
    assert job.failure is not None
    assert job.failure.code is ErrorCode.CONTENT_MODERATION_REJECTED
    assert "CANARY" not in repr(job)


def test_a_prediction_is_found_by_the_address_it_is_to_call() -> None:
    found = REPLICATE.read_look_up(answered("replicate-list.json"), TOKEN, FLUX)
    assert found is not None
    assert (found.id, found.state) == ("ours", JobState.RUNNING)
    assert REPLICATE.read_look_up(answered("replicate-list.json"), "e" * 32, FLUX) is None


def test_a_fal_request_is_read_from_the_queue_to_its_result() -> None:
    queued = FAL.read_submit(answered("fal-queued.json"), FAL_FLUX)
    assert (queued.id, queued.state) == ("764cabcf-b745-4b3e-ae38-1200304cf45b", JobState.QUEUED)
    assert FAL.read_status(answered("fal-queued.json", 202), FAL_FLUX).state is JobState.QUEUED

    done = FAL.read_status(answered("fal-completed.json"), FAL_FLUX)
    assert (done.state, done.has_outputs) == (JobState.SUCCEEDED, False)

    result = FAL.read_result(answered("fal-result-images.json", x_fal_billable_units="1.05"), FAL_FLUX)
    assert result.metered_ms == 1050
    first, second = result.outputs
    assert first == Output("https://v3b.fal.media/files/b/lion/a.png", "image/png", 1_824_075, 1024, 768)
    assert second.size_bytes == 0

    video = FAL.read_result(answered("fal-result-video.json"), FAL_FLUX)
    assert (video.made, video.metered_ms, len(video.outputs)) == (Usage(duration_ms=5040), None, 1)


def test_a_fal_request_that_failed_says_so_in_its_result() -> None:
    refused = FAL.read_result(answered("fal-error.json", 422), FAL_FLUX)
    late = FAL.read_result(answered("fal-timeout.json", 504, x_fal_error_type="request_timeout"), FAL_FLUX)
    assert refused.failure is not None
    assert late.failure is not None
    assert refused.failure.code is ErrorCode.CONTENT_MODERATION_REJECTED
    assert late.failure.code is ErrorCode.GENERATION_TIMEOUT
    cancelled = FAL.read_result(said({"detail": "x", "error_type": "client_cancelled"}, 499), FAL_FLUX)
    assert cancelled.state is JobState.CANCELED

    with pytest.raises(UpstreamError):
        FAL.read_result(said("upstream connect error", 502), FAL_FLUX)  # of the front door: asked again later


def test_a_described_answer_is_read_as_described() -> None:
    done = PLAIN.read_status(answered("plain-succeeded.json"), TASKS)
    assert (done.id, done.state, done.token) == ("7311", JobState.SUCCEEDED, TOKEN)
    assert (done.made, done.metered_ms) == (Usage(duration_ms=4000), 12_500)
    assert done.outputs == (Output("https://cdn.plain.example/7311.mp4", size_bytes=1000),)

    rule = ErrorRule(ErrorCode.CONTENT_MODERATION_REJECTED, provider_code="NAUGHTY")
    broken = said({"task": {"uid": 1, "phase": "Broken", "why": "NAUGHTY"}})
    failed = PLAIN.read_status(broken, target("clip-1", description=DESCRIPTION, rules=(rule,)))
    assert failed.failure is not None
    assert failed.failure.code is ErrorCode.CONTENT_MODERATION_REJECTED

    listed = said({"items": [{"task": {"uid": 1, "phase": "done"}, "reference": "b" * 32}]})
    assert PLAIN.read_look_up(listed, TOKEN, TASKS) is None
    listed = said({"items": [{"task": {"uid": 1, "phase": "running"}, "reference": TOKEN}]})
    found = PLAIN.read_look_up(listed, TOKEN, TASKS)
    assert found is not None
    assert found.state is JobState.RUNNING


def test_a_job_whose_state_nobody_has_described_was_taken_all_the_same() -> None:
    job = PLAIN.read_submit(said({"task": {"uid": 9, "phase": "??"}}, 201), TASKS)
    assert (job.id, job.state) == ("9", JobState.QUEUED)
    with pytest.raises(BadAnswer):
        PLAIN.read_status(said({"task": {"uid": 9, "phase": "??"}}), TASKS)


REFUSALS = [
    (REPLICATE, 401, {"title": "Unauthenticated", "detail": "CANARY"}, ErrorCode.MODEL_UNAVAILABLE),
    (REPLICATE, 402, {"title": "Billing required"}, ErrorCode.MODEL_UNAVAILABLE),
    (REPLICATE, 422, {"title": "Input validation failed", "detail": "CANARY"}, ErrorCode.INPUT_VALIDATION_ERROR),
    (REPLICATE, 429, {"detail": "Request was throttled."}, ErrorCode.MODEL_OVERLOADED),
    (FAL, 422, {"detail": [{"loc": ["body"], "type": "missing", "msg": "CANARY"}]}, ErrorCode.INPUT_VALIDATION_ERROR),
    (FAL, 422, {"detail": [{"type": "file_download_error"}]}, ErrorCode.FILE_NOT_FOUND),
    (FAL, 503, {"detail": "x", "error_type": "runner_scheduling_failure"}, ErrorCode.MODEL_OVERLOADED),
    (PLAIN, 500, {"error": {"message": "CANARY"}}, ErrorCode.GENERATION_FAILED),
]


@pytest.mark.parametrize(("kind", "status", "document", "code"), REFUSALS, ids=map(str, range(len(REFUSALS))))
def test_a_refused_submission_is_a_canonical_code(
    kind: JobKind, status: int, document: object, code: ErrorCode
) -> None:
    to = {REPLICATE: FLUX, FAL: FAL_FLUX, PLAIN: TASKS}[kind]
    with pytest.raises(UpstreamError) as refused:
        kind.read_submit(said(document, status, retry_after="7"), to)
    assert refused.value.failure.code is code
    assert "CANARY" not in repr(refused.value) + repr(refused.value.failure)
    if status == 429:
        assert refused.value.failure.retry_after_s == 7


@pytest.mark.parametrize(("kind", "to"), [(REPLICATE, FLUX), (FAL, FAL_FLUX), (PLAIN, TASKS)])
def test_a_job_that_the_provider_does_not_know_is_gone(kind: JobKind, to: JobTarget) -> None:
    assert kind.read_status(said({"detail": "Not found"}, 404), to).state is JobState.GONE


@pytest.mark.parametrize("job_id", ["../../v1/account", "a/b", "", "a?b", "a b", "x" * 129, None, True, 1.5, ["a"]])
def test_an_id_that_would_be_another_path_is_no_id(job_id: object) -> None:
    with pytest.raises(BadAnswer):
        REPLICATE.read_submit(said({"id": job_id, "status": "starting"}, 201), FLUX)
    with pytest.raises(BadAnswer):
        FAL.read_submit(said({"request_id": job_id}), FAL_FLUX)
    with pytest.raises(BadAnswer):
        PLAIN.read_submit(said({"task": {"uid": job_id, "phase": "done"}}), TASKS)


SAMPLES = {
    REPLICATE: ("replicate-*.json", FLUX),
    FAL: ("fal-*.json", FAL_FLUX),
    PLAIN: ("plain-*.json", TASKS),
}


@pytest.mark.parametrize("kind", SAMPLES, ids=["replicate", "fal", "http-job"])
def test_whatever_a_provider_says_only_declared_exceptions_come_out(kind: JobKind) -> None:
    pattern, to = SAMPLES[kind]
    dice = random.Random(20_261_126)
    seeds = [path.read_bytes() for path in sorted(FOLDER.glob(pattern))]
    for _ in range(4_000):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            piece = dice.choice((b'"', b"{", b"]", b"null", b"-1", b"1e999", b"[[", b"\xff", dice.randbytes(2), b"{}"))
            data[at : at + dice.choice((0, 1, 3, 20))] = piece
        answer = JobAnswer(dice.choice((200, 201, 202, 404, 422, 429, 500)), {b"retry-after": b"x"}, bytes(data))
        for read in (kind.read_submit, kind.read_status, kind.read_result):
            with contextlib.suppress(BadAnswer, UpstreamError):
                job = read(answer, to)
                assert job.id == "" or JOB_ID.fullmatch(job.id)
                assert len(job.outputs) <= OUTPUTS_MAX
        if kind.look_up(TOKEN, to) is not None:
            with contextlib.suppress(BadAnswer, UpstreamError):
                kind.read_look_up(answer, TOKEN, to)
        kind.read_callback({}, bytes(data), to)


def test_outputs_are_bounded() -> None:
    with pytest.raises(BadAnswer):
        outputs_of(["https://x/1"] * 65, is_plain=True)
    with pytest.raises(BadAnswer):
        outputs_of("https://x/" + "a" * 5000, is_plain=True)
    with pytest.raises(BadAnswer):
        outputs_of("https://x/a b", is_plain=True)
    assert outputs_of("words that are no address", is_plain=True) == ()
    assert outputs_of("https://x/", is_plain=False) == ()


@pytest.mark.parametrize(
    ("told", "milli"),
    [
        *((3.250125, 3250), (0.0005, 1), (1e-05, 0), (5, 5000), ("1.05", 1050), ("", None), ("x", None)),
        *((-1, None), (True, None), (float("inf"), None), ("1e999", None), (None, None), (2e9, None)),
    ],
)
def test_a_quantity_is_read_in_thousandths(told: object, milli: int | None) -> None:
    assert milli_of(told) == milli
