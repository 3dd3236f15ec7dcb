"""A job kind: how a provider that works asynchronously is asked for a job, asked about it, and heard. Sans-io.

    submit ─▶ Job(id) ─▶ status, status, … ─▶ SUCCEEDED with outputs │ FAILED │ CANCELED │ GONE
                  ▲                   a callback is a hint to ask
    ambiguous ────┴─ look_up by token, where the provider lists its jobs

Everything read raises BadAnswer for what is no answer and UpstreamError for a refusal of the question itself (a rate
limit, a breakdown); that a job failed is the `failure` of a Job. A provider's words are matched and forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from enum import Enum
from typing import Protocol

import msgspec

from waypost.providers.kind import BadAnswer, ErrorRule, Failure, RequestChanges
from waypost.wire.canonical import Usage

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=-]{0,127}")
OUTPUTS_MAX = 64  # of one job; more is no answer that anybody asked for
URL_CHARS_MAX = 4_096
CALLBACK_TOLERANCE_S = 300  # between a callback's timestamp and now, either way: Standard Webhooks, and fal's own

_JSON = "application/json"
_COUNT_MAX = 1 << 40
_QUANTITY_MAX = 1_000_000_000
_DEPTH_MAX = 16
_PRINTABLE = re.compile(r"[!-~]+")

_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class JobState(Enum):
    """Where a job is, by the provider's last word."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    GONE = "gone"  # the provider knows no such job, or no longer

    @property
    def is_terminal(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Output(msgspec.Struct, frozen=True, gc=False):
    """One file that a job made. `url` may be a `data:` one; zeros and "" are what the provider did not tell."""

    url: str
    content_type: str = ""  # as the provider says; the bytes decide
    size_bytes: int = 0
    width: int = 0
    height: int = 0

    def __repr__(self) -> str:
        return "<output>"  # its address tells whose it is


class Job(msgspec.Struct, frozen=True, gc=False):
    """A job as its provider tells it.

    `made` is what came out, which customers pay by (`images`, `duration_ms`), `metered_ms` the thousandths of what the
    provider says that it metered: compute seconds at Replicate, billable units at fal; None when it did not say."""

    id: str
    state: JobState
    outputs: tuple[Output, ...] = ()
    has_outputs: bool = True  # False: it succeeded, and what it made has to be asked for (`result`)
    made: Usage = Usage()
    metered_ms: int | None = None
    failure: Failure | None = None
    token: str = ""  # ours, where the provider repeats it


class JobDescription(msgspec.Struct, frozen=True, kw_only=True):
    """How a provider of kind `http-job` is spoken to. Paths begin with "/", and hold `{id}`, `{model}`, `{token}`;
    fields are names with dots between, `0` for the first of an array, "" for what it does not have."""

    submit_path: str
    status_path: str
    result_path: str = ""
    cancel_path: str = ""
    cancel_method: str = "POST"
    look_up_path: str = ""
    # where the submitted body has
    model_field: str = "model"
    input_field: str = "input"  # "": the input's fields stand at the top
    token_field: str = ""
    callback_field: str = ""
    idempotency_header: str = ""
    # where answers have
    id: str = "id"
    state: str = "status"
    outputs: str = "output"
    error_code: str = "error.code"
    error_message: str = "error.message"
    jobs: str = ""  # the list in the answer to a look-up; "": the answer is the list, or the job
    images: str = ""
    seconds: str = ""  # of what it made
    metered: str = ""  # what it bills by
    states: dict[str, tuple[str, ...]] = {}
    # how callbacks are signed
    signature_header: str = ""
    signature_prefix: str = ""  # before the digits, such as "sha256="
    signature_encoding: str = "hex"
    timestamp_header: str = ""  # signed before the body, with a dot between
    event_header: str = ""


class JobTarget(msgspec.Struct, frozen=True):
    """Where jobs of one deployment go. Made from configuration alone."""

    provider: str
    path_prefix: str  # of the base URL
    upstream_model: str
    changes: RequestChanges | None = None
    error_rules: tuple[ErrorRule, ...] = ()
    description: JobDescription | None = None


class Submission(msgspec.Struct, frozen=True):
    """What to ask for. `token` is ours, and the same for one attempt however often it is sent; `callback_url` ends in
    it, "" for none."""

    input: Mapping[str, msgspec.Raw]
    token: str
    callback_url: str = ""
    deadline_s: int = 0  # after which nobody wants the job; 0: not said

    def __repr__(self) -> str:
        return "<submission>"


class JobCall(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request to the provider, without its credential."""

    method: str
    path: str  # with the base URL's, and the query
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<job call {self.method}>"


class JobAnswer(msgspec.Struct, frozen=True, gc=False):
    """The provider's answer to a call; headers by lower-case name."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    def __repr__(self) -> str:
        return f"<job answer {self.status}>"


class Signature(Enum):
    """Whether a callback is the provider's own word."""

    VALID = "valid"
    INVALID = "invalid"
    ABSENT = "absent"  # it carries none, or there is nothing to check one with


class Callback(msgspec.Struct, frozen=True, gc=False):
    """What may be kept of a callback: ids, "" where it has none."""

    event_id: str
    job_id: str


class CallbackKeys(msgspec.Struct, frozen=True, gc=False):
    """What signatures are checked with: shared secrets, or a provider's public keys (32 bytes each)."""

    secrets: tuple[str, ...] = ()
    public_keys: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return "<callback keys>"


class JobKind(Protocol):
    credential_scheme: str  # before the credential in `authorization`

    def takes_callbacks(self, target: JobTarget) -> bool:
        """Whether it can be given an address to call when a job changes."""

    def repeats_safely(self, target: JobTarget) -> bool:
        """Whether a submission may be sent again when nobody knows if it arrived."""

    def submit(self, submission: Submission, target: JobTarget) -> JobCall: ...

    def read_submit(self, answer: JobAnswer, target: JobTarget) -> Job:
        """The job that was made. Raises UpstreamError when it was refused, BadAnswer when that cannot be told."""

    def status(self, job_id: str, target: JobTarget) -> JobCall: ...

    def read_status(self, answer: JobAnswer, target: JobTarget) -> Job: ...

    def result(self, job_id: str, target: JobTarget) -> JobCall:
        """For a job that succeeded without `has_outputs`."""

    def read_result(self, answer: JobAnswer, target: JobTarget) -> Job:
        """SUCCEEDED with outputs, or FAILED."""

    def upload(self, content: bytes, content_type: str, target: JobTarget) -> JobCall | None:
        """A file of an input, for who is given it so; None where the provider takes none."""

    def read_upload(self, answer: JobAnswer, target: JobTarget) -> str:
        """What stands for the file in an input."""

    def cancel(self, job_id: str, target: JobTarget) -> JobCall | None:
        """None where jobs cannot be cancelled. What becomes of the job, its status tells."""

    def look_up(self, token: str, target: JobTarget) -> JobCall | None:
        """Finds jobs by our token; None where the provider cannot."""

    def read_look_up(self, answer: JobAnswer, token: str, target: JobTarget) -> Job | None:
        """The job submitted with the token, None when the provider lists none."""

    def verify(
        self, headers: Mapping[str, str], body: bytes, keys: CallbackKeys, now_s: int, target: JobTarget
    ) -> Signature:
        """`headers` by lower-case name."""

    def read_callback(self, headers: Mapping[str, str], body: bytes, target: JobTarget) -> Callback:
        """Never raises: what it cannot read it says nothing about."""


def document_of(body: bytes) -> object:
    """The JSON value. Raises BadAnswer."""
    try:
        return _decode_any(body)
    except (ValueError, RecursionError):
        raise BadAnswer from None


def object_of(body: bytes) -> dict[str, object]:
    """The JSON object. Raises BadAnswer for anything else."""
    document = document_of(body)
    if not isinstance(document, dict):
        raise BadAnswer
    return document


def job_id_of(value: object) -> str:
    """A job's id that can stand in a path. Raises BadAnswer: an id that names another path is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or JOB_ID.fullmatch(value) is None:
        raise BadAnswer
    return value


def text_of(value: object) -> str:
    """A string, or "" for anything else."""
    return value if isinstance(value, str) else ""


def milli_of(value: object) -> int | None:
    """Thousandths of a number that is told as a number or as text, rounded to the nearest; None for anything else.

    A float is read by its shortest text, so that what was written as 1.05 is 1050."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    if not number.is_finite() or not 0 <= number <= _QUANTITY_MAX:
        return None
    return int((number * 1000).to_integral_value(ROUND_HALF_UP))


def count_of(value: object) -> int | None:
    """A whole number of things, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _COUNT_MAX else None


def outputs_of(document: object, *, is_plain: bool) -> tuple[Output, ...]:
    """Every file that a result names, in order: objects with a `url`, and where `is_plain` bare addresses too.

    Raises BadAnswer when there are more than OUTPUTS_MAX, or an address is no address."""
    found: list[Output] = []
    _collect(document, found, is_plain=is_plain, depth=0)
    return tuple(found)


def _collect(value: object, found: list[Output], *, is_plain: bool, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise BadAnswer
    if isinstance(value, str):
        if is_plain and _is_address(value):
            _add(found, Output(_checked(value)))
    elif isinstance(value, list):
        for each in value:
            _collect(each, found, is_plain=is_plain, depth=depth + 1)
    elif isinstance(value, dict):
        address = value.get("url")
        if isinstance(address, str) and _is_address(address):
            _add(found, _output_of(value, address))
            return
        for each in value.values():
            _collect(each, found, is_plain=is_plain, depth=depth + 1)


def _output_of(fields: Mapping[str, object], address: str) -> Output:
    return Output(
        url=_checked(address),
        content_type=text_of(fields.get("content_type"))[:128],
        size_bytes=count_of(fields.get("file_size")) or 0,
        width=count_of(fields.get("width")) or 0,
        height=count_of(fields.get("height")) or 0,
    )


def _add(found: list[Output], output: Output) -> None:
    if len(found) == OUTPUTS_MAX:
        raise BadAnswer
    found.append(output)


def _is_address(text: str) -> bool:
    return text.startswith(("https://", "http://", "data:"))


def _checked(address: str) -> str:
    if not address.startswith("data:") and (len(address) > URL_CHARS_MAX or not _PRINTABLE.fullmatch(address)):
        raise BadAnswer
    return address


def json_call(method: str, path: str, value: object = None, *, headers: Sequence[tuple[str, str]] = ()) -> JobCall:
    """A request with a JSON body, or with none."""
    lines = [("accept", _JSON), *headers]
    if value is None:
        return JobCall(method, path, tuple(lines))
    return JobCall(method, path, (("content-type", _JSON), *lines), _encode(value))
