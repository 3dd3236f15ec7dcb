"""Recorded answers of providers of jobs, and what they are read with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from waypost.providers.job import JobAnswer, JobDescription, JobTarget

FOLDER = Path(__file__).parent / "jobs"
TOKEN = "0123456789abcdef0123456789abcdef"
CALLBACK = f"https://ai.example.org/v1/callbacks/p/exec_1/1/{TOKEN}"
DESCRIPTION = JobDescription(
    submit_path="/v2/{model}/tasks",
    status_path="/v2/tasks/{id}",
    cancel_path="/v2/tasks/{id}",
    cancel_method="DELETE",
    look_up_path="/v2/tasks?reference={token}",
    model_field="",
    input_field="",
    token_field="reference",
    callback_field="notify",
    idempotency_header="Idempotency-Key",
    id="task.uid",
    state="task.phase",
    outputs="files",
    error_code="task.why",
    jobs="items",
    seconds="clip.length",
    metered="billing.units",
    states={"succeeded": ("done",), "failed": ("broken",)},
    signature_header="X-Signature",
    signature_prefix="sha256=",
    timestamp_header="X-Time",
    event_header="X-Event",
)


def target(
    upstream_model: str, *, prefix: str = "", description: JobDescription | None = None, rules: tuple[object, ...] = ()
) -> JobTarget:
    return JobTarget("p", prefix, upstream_model, description=description, error_rules=rules)  # type: ignore[arg-type]


def answered(sample: str, status: int = 200, **headers: str) -> JobAnswer:
    """A recorded body; header names with `_` for `-`."""
    lines = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return JobAnswer(status, lines, (FOLDER / sample).read_bytes())


def said(document: object, status: int = 200, **headers: str) -> JobAnswer:
    lines = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return JobAnswer(status, lines, msgspec.json.encode(document))
