"""The simulated providers of jobs: they take them, run them as time passes, tell of them, call back, serve the files
that they made for a while, and bill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs

import msgspec

from waypost.kit.clock import Clock
from waypost.kit.ids import Ids
from waypost.kit.values import replace
from waypost.simulator.bill import Bill
from waypost.simulator.connection import HttpRequest
from waypost.simulator.fault import Fault, FaultBox
from waypost.simulator.job import JobDirectives, SimJob, read_job_directives
from waypost.simulator.job_callback import RETRY_S, TRIES, call, key_set, signed
from waypost.simulator.job_style import JOB_STYLES, Asked, JobStyle, Told
from waypost.simulator.media import CONTENT_TYPES, media
from waypost.simulator.record import Record
from waypost.simulator.reply import Framing, Reply
from waypost.simulator.request import InvalidRequest

JOBS_MAX = 100_000  # kept; the oldest is forgotten first
FILES_PREFIX = "/files/"
KEY_SET_PATH = "/fal/.well-known/jwks.json"
_MEDIA = {"mp4": ("video", "clip", "film", "veo", "sora"), "wav": ("audio", "speech", "music", "voice")}
_COUNTS = ("num_outputs", "num_images", "n")
_DURATIONS = ("duration", "seconds")
_SECONDS = 4.0
_FORGOTTEN = "unaccepted"  # the fault of a submission that nobody kept
_encode = msgspec.json.Encoder().encode


class JobProviders:
    """One simulator's. `base_url` is known once it listens; `is_authorized` says whether a credential is taken."""

    def __init__(
        self,
        *,
        faults: FaultBox,
        bill: Bill,
        ids: Ids,
        clock: Clock,
        base_url: Callable[[], str],
        is_authorized: Callable[[str], bool],
        on_change: Callable[[], None],
    ) -> None:
        self.jobs: dict[str, SimJob] = {}
        self._faults = faults
        self._bill = bill
        self._ids = ids
        self._clock = clock
        self._base_url = base_url
        self._is_authorized = is_authorized
        self._on_change = on_change
        self._calling: set[asyncio.Task[None]] = set()
        self._by_key: dict[tuple[str, str], str] = {}  # idempotency keys of the plain style

    def takes(self, path: str) -> bool:
        return path.startswith(FILES_PREFIX) or self._style_of(path) is not None

    def style_name(self, path: str) -> str:
        style = self._style_of(path)
        return "files" if style is None else style.name

    def answer(self, request: HttpRequest, record: Record) -> tuple[Reply, Fault | None]:
        """The reply, and the fault that it suffers."""
        if request.path == KEY_SET_PATH:
            return _reply(Told(200, key_set())), None
        style = self._style_of(request.path)
        if style is None:
            return self._file(request), None
        scheme, _, credential = request.fields.get("authorization", "").partition(" ")
        if scheme.lower() != style.scheme or not self._is_authorized(credential.strip()):
            return _reply(style.refused(401, "Unauthenticated")), None
        path = request.path.removeprefix(style.prefix)
        uploaded = style.uploaded(request, path, f"{self._base_url()}{style.prefix}/v1/files/{self._ids.new().hex()}")
        if uploaded is not None:
            return _reply(uploaded), None
        try:
            asked = style.submission(request, path)
            if asked is not None:
                return self._submit(style, asked, request, record)
        except (InvalidRequest, msgspec.ValidationError) as error:
            return _reply(style.refused(422, str(error))), None
        told, name = self._asked_about(style, request, path)
        fault = self._faults.take_for_style(f"{style.name}-{name}") if name else None
        if fault is not None and fault.kind == "status":
            told = style.refused(fault.status or 500, fault.message or "refused", fault.code)
        return _reply(told, fault), fault

    async def stop(self) -> None:
        for task in self._calling:
            task.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)

    # Submissions

    def _submit(
        self, style: JobStyle, asked: Asked, request: HttpRequest, record: Record
    ) -> tuple[Reply, Fault | None]:
        record.model = asked.model
        prompt = asked.input.get("prompt")
        directives = read_job_directives(prompt if isinstance(prompt, str) else "", asked.model)
        fault = self._faults.take_for_request(model=asked.model, style=style.name, is_stream=False)
        record.fault = fault.kind if fault is not None else ""
        if fault is not None and fault.kind == "status":
            told = style.refused(fault.status or 500, fault.message or "refused", fault.code)
            return _reply(told, fault), fault
        if fault is not None and fault.kind == _FORGOTTEN:
            return _reply(Told(200, {})), replace(fault, kind="reset")
        key = (style.name, request.fields.get("idempotency-key", ""))
        job = self.jobs.get(self._by_key.get(key, "")) if key[1] else None
        if job is None:
            job = self._begin(style, asked, directives)
            if key[1]:
                self._by_key[key] = job.id
        record.answer_id = job.id
        return _reply(style.created(job)), fault

    def _begin(self, style: JobStyle, asked: Asked, directives: JobDirectives) -> SimJob:
        kind = directives.media or _media_of(asked.model)
        seconds = directives.seconds if directives.seconds is not None else _number(asked.input, _DURATIONS, _SECONDS)
        count = directives.outputs if directives.outputs is not None else int(_number(asked.input, _COUNTS, 1))
        job = SimJob(
            id=self._ids.new().hex(),
            style=style.name,
            model=asked.model,
            token=asked.token,
            callback_url=asked.callback_url,
            directives=directives,
            media=kind,
            count=min(count, 64) if kind == "png" or style.name != "fal" else min(count, 1),
            duration_ms=0 if kind == "png" else int(seconds * 1000),
            created_s=time.monotonic(),
            created_unix_ms=self._clock.unix_ns() // 1_000_000,
        )
        while len(self.jobs) >= JOBS_MAX:
            del self.jobs[next(iter(self.jobs))]
        self.jobs[job.id] = job
        loop = asyncio.get_running_loop()
        loop.call_later(directives.queue_ms / 1000, self._start, style, job)
        if directives.callback == "early":
            self._call_later(style, job, 0.0)
        return job

    # The course of a job

    def _start(self, style: JobStyle, job: SimJob) -> None:
        if job.has_ended:
            return
        job.state, job.started_s = "running", time.monotonic()
        if not job.directives.stuck:
            asyncio.get_running_loop().call_later(job.directives.run_ms / 1000, self._end, style, job)
        self._on_change()

    def _end(self, style: JobStyle, job: SimJob, state: str = "") -> None:
        if job.has_ended:
            return
        is_failing = job.directives.fail not in ("", "0")
        job.state, job.ended_s = state or ("failed" if is_failing else "succeeded"), time.monotonic()
        self._charge(style, job)
        kind = job.directives.callback
        if job.callback_url and kind != "never":
            self._call_later(style, job, job.directives.late_ms / 1000 if kind == "late" else 0.0)
        self._on_change()

    def _charge(self, style: JobStyle, job: SimJob) -> None:
        """Time where time is billed, whatever came of it; else what was made."""
        is_made = job.state == "succeeded"
        made_ms = job.count * job.duration_ms if is_made else 0
        if not is_made and not (style.bills_time and job.metered_ms):
            return
        self._bill.charge_job(
            job_id=job.id,
            style=style.name,
            model=job.model,
            images=job.count if is_made and job.media == "png" else 0,
            milliseconds=job.metered_ms if style.bills_time else made_ms,
        )

    # What is asked about it

    def _asked_about(self, style: JobStyle, request: HttpRequest, path: str) -> tuple[Told, str]:
        """And what sort of question it is, "" for none."""
        token = style.listed(request.method, path, parse_qs(request.query))
        if token is not None:
            mine = [job for job in self.jobs.values() if job.style == style.name and token in ("", job.token)]
            return style.list_of(mine), "list"
        name, job_id = style.job_of(request.method, path)
        job = self.jobs.get(job_id)
        if not name or job is None or job.style != style.name or (job.directives.vanish and job.has_ended):
            return style.refused(404, "There is no such job."), name
        if name == "cancel":
            is_late = job.has_ended
            job.is_cancel_asked = True
            if job.directives.cancel == "at_once" and not job.has_ended:
                self._end(style, job, "canceled")
            return style.cancelled(job, is_late=is_late), name
        job.polls += 1
        told = style.status if name == "status" else style.result
        return told(job, self._links(job)), name

    def _links(self, job: SimJob) -> list[str]:
        """Addresses of what it made, each good for a while from now on."""
        if job.state != "succeeded":
            return []
        links = []
        for at in range(job.count):
            is_stale = job.links_given < job.directives.expired
            until_s = self._clock.unix_ns() // 1_000_000_000 + (-1 if is_stale else int(job.directives.link_s))
            job.links_given += 1
            links.append(f"{self._base_url()}{FILES_PREFIX}{job.id}/{at}.{job.media}?until={until_s}")
        return links

    def _file(self, request: HttpRequest) -> Reply:
        job_id, _, name = request.path.removeprefix(FILES_PREFIX).partition("/")
        job, at = self.jobs.get(job_id), name.partition(".")[0]
        until = parse_qs(request.query).get("until", ["0"])[0]
        if job is None or request.method != "GET" or not at.isdigit() or int(at) >= job.count:
            return _raw(404, "text/plain", b"not found\n")
        if not until.isdigit() or int(until) < self._clock.unix_ns() // 1_000_000_000:
            return _raw(403, "application/xml", b"<Error><Code>AccessDenied</Code></Error>")
        match job.directives.output:
            case "missing":
                return _raw(404, "text/plain", b"not found\n")
            case "wrong_type":
                return _raw(200, CONTENT_TYPES[job.media], b"<!doctype html><title>Log in</title>")
        padding = job.directives.bytes
        data = media(job.media, job.id, int(at), duration_ms=job.duration_ms, padding_bytes=padding)
        reply = _raw(200, CONTENT_TYPES[job.media], data)
        if job.directives.output == "broken":
            reply.declared_length = len(data) + 100
        return reply

    # Callbacks

    def _call_later(self, style: JobStyle, job: SimJob, delay_s: float) -> None:
        task = asyncio.ensure_future(self._call_back(style, job, delay_s))
        self._calling.add(task)
        task.add_done_callback(self._calling.discard)

    async def _call_back(self, style: JobStyle, job: SimJob, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        kind = job.directives.callback
        body = _encode(style.callback(job, self._links(job)))
        event_id = job.id if style.name == "fal" else f"msg_{job.id}"
        for _ in range(2 if kind == "twice" else 1):
            for number in range(TRIES):
                now_s = self._clock.unix_ns() // 1_000_000_000
                headers = (
                    [] if kind == "unsigned" else signed(style.name, event_id, body, now_s, is_forged=kind == "forged")
                )
                job.callbacks.append(await call(job.callback_url, headers, body))
                self._on_change()
                if 200 <= job.callbacks[-1] <= 299:
                    break
                await asyncio.sleep(RETRY_S * 2**number)

    def _style_of(self, path: str) -> JobStyle | None:
        return next((style for style in JOB_STYLES if path.startswith(style.prefix + "/")), None)


def _media_of(model: str) -> str:
    named = (kind for kind, words in _MEDIA.items() if any(word in model.lower() for word in words))
    return next(named, "png")


def _number(fields: dict[str, object], names: Sequence[str], default: float) -> float:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 3_600:
            return float(value)
    return default


def _reply(told: Told, fault: Fault | None = None) -> Reply:
    headers = [("Content-Type", "application/json"), *told.headers]
    if fault is not None and fault.retry_after:
        headers.append(("Retry-After", fault.retry_after))
    return Reply(told.status, headers, document=_encode(told.document), framing=Framing.LENGTH)


def _raw(status: int, content_type: str, body: bytes) -> Reply:
    return Reply(status, [("Content-Type", content_type)], document=body, framing=Framing.LENGTH)
