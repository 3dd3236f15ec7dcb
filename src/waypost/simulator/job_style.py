"""How the simulated providers of jobs are spoken to: Replicate's way, fal's, and one that no SDK knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec

from waypost.simulator.connection import HttpRequest
from waypost.simulator.job import SimJob
from waypost.simulator.request import InvalidRequest

Fields = dict[str, object]
_decode = msgspec.json.Decoder(dict[str, object]).decode


class Asked(msgspec.Struct):
    """A submission, whoever it was made to."""

    model: str
    input: Fields
    token: str = ""
    callback_url: str = ""


class Told(msgspec.Struct):
    """An answer."""

    status: int
    document: object
    headers: tuple[tuple[str, str], ...] = ()


class JobStyle(ABC):
    name: str
    prefix: str
    scheme: str = "bearer"
    bills_time: bool = False

    @abstractmethod
    def submission(self, request: HttpRequest, path: str) -> Asked | None:
        """None for any other request. Raises InvalidRequest. `path` has the prefix taken off."""

    @abstractmethod
    def job_of(self, method: str, path: str) -> tuple[str, str]:
        """What a request is about: (`status` | `result` | `cancel`, job id); ("", "") for another."""

    def listed(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> str | None:  # noqa: ARG002
        """For a request for a list: whose token, "" for all; None for another request."""
        return None

    @abstractmethod
    def created(self, job: SimJob) -> Told: ...

    @abstractmethod
    def status(self, job: SimJob, links: Sequence[str]) -> Told: ...

    @abstractmethod
    def result(self, job: SimJob, links: Sequence[str]) -> Told: ...

    def cancelled(self, job: SimJob, *, is_late: bool) -> Told:
        return Told(200, self.status(job, ()).document) if not is_late else self.refused(409, "It has ended.")

    def uploaded(self, request: HttpRequest, path: str, address: str) -> Told | None:  # noqa: ARG002
        """For a request that uploads a file: that it stands at the address. None for another request."""
        return None

    def list_of(self, jobs: Sequence[SimJob]) -> Told:  # noqa: ARG002
        raise AssertionError("lists nothing")

    @abstractmethod
    def refused(self, status: int, message: str, code: str = "") -> Told: ...

    @abstractmethod
    def callback(self, job: SimJob, links: Sequence[str]) -> Fields: ...


class ReplicateStyle(JobStyle):
    """After replicate.com/docs/reference/http."""

    name, prefix, bills_time = "replicate", "/replicate", True

    def submission(self, request: HttpRequest, path: str) -> Asked | None:
        if request.method != "POST" or not path.startswith("/v1/") or not path.endswith("/predictions"):
            return None
        body = _object(request)
        strangers = set(body) - {"input", "version", "webhook", "webhook_events_filter", "stream"}
        if strangers or not isinstance(body.get("input"), dict):
            raise InvalidRequest("input is an object, and nothing else is known here")
        owner = path.removeprefix("/v1/").removesuffix("predictions").strip("/")
        model = owner.partition("/")[2] if owner else _text(body.get("version"))
        if not model:
            raise InvalidRequest("version: required")
        callback_url = _text(body.get("webhook"))
        return Asked(model, body["input"], callback_url.rpartition("/")[2], callback_url)  # type: ignore[arg-type]

    def job_of(self, method: str, path: str) -> tuple[str, str]:
        job_id, _, verb = path.removeprefix("/v1/predictions/").partition("/")
        if path.startswith("/v1/predictions/") and job_id:
            return {("GET", ""): "status", ("POST", "cancel"): "cancel"}.get((method, verb), ""), job_id
        return "", ""

    def listed(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> str | None:  # noqa: ARG002
        return "" if (method, path) == ("GET", "/v1/predictions") else None

    def uploaded(self, request: HttpRequest, path: str, address: str) -> Told | None:
        if (request.method, path) != ("POST", "/v1/files"):
            return None
        if not request.fields.get("content-type", "").startswith("multipart/form-data; boundary="):
            return self.refused(400, "Send multipart/form-data.")
        return Told(201, {"id": address.rpartition("/")[2], "size": len(request.body), "urls": {"get": address}})

    def created(self, job: SimJob) -> Told:
        return Told(201, self._prediction(job, ()))

    def status(self, job: SimJob, links: Sequence[str]) -> Told:
        return Told(200, self._prediction(job, links))

    def result(self, job: SimJob, links: Sequence[str]) -> Told:
        return self.status(job, links)

    def cancelled(self, job: SimJob, *, is_late: bool) -> Told:  # noqa: ARG002  it tells how things are
        return self.status(job, ())

    def list_of(self, jobs: Sequence[SimJob]) -> Told:
        rows = [self._prediction(job, ()) for job in reversed(jobs)][:100]
        return Told(200, {"next": None, "previous": None, "results": rows})

    def refused(self, status: int, message: str, code: str = "") -> Told:
        return Told(status, {"title": code or "Refused", "detail": message, "status": status})

    def callback(self, job: SimJob, links: Sequence[str]) -> Fields:
        return self._prediction(job, links)

    def _prediction(self, job: SimJob, links: Sequence[str]) -> Fields:
        states = {"queued": "starting", "running": "processing"}
        metrics: Fields = {}
        if job.has_ended:
            metrics["predict_time"] = job.metered_ms / 1000
            if job.state == "succeeded":
                metrics |= _made(job)
        webhook: Fields = {"webhook": job.callback_url, "webhook_events_filter": ["completed"]}
        return {
            "id": job.id,
            "model": job.model,
            "version": "hidden",
            "input": {},
            "logs": "simulated",
            "output": (links[0] if len(links) == 1 and job.media != "png" else list(links)) or None,
            "error": _PROSE[job.directives.fail] if job.state == "failed" else None,
            "status": states.get(job.state, job.state),
            "created_at": _moment(job),
            "metrics": metrics,
            "urls": {"get": f"/v1/predictions/{job.id}", "cancel": f"/v1/predictions/{job.id}/cancel"},
            **(webhook if job.callback_url else {}),
        }


class FalStyle(JobStyle):
    """After fal's queue API."""

    name, prefix, scheme = "fal", "/fal", "key"

    def submission(self, request: HttpRequest, path: str) -> Asked | None:
        if request.method != "POST" or "/requests/" in path or path.count("/") < 2:
            return None
        callback_url = parse_qs(request.query).get("fal_webhook", [""])[0]
        return Asked(path.strip("/"), _object(request), callback_url.rpartition("/")[2], callback_url)

    def job_of(self, method: str, path: str) -> tuple[str, str]:
        _, found, rest = path.partition("/requests/")
        job_id, _, verb = rest.partition("/")
        known = {("GET", "status"): "status", ("GET", ""): "result", ("PUT", "cancel"): "cancel"}
        return (known.get((method, verb), ""), job_id) if found else ("", "")

    def created(self, job: SimJob) -> Told:
        return Told(200, {"status": "IN_QUEUE", "queue_position": 0, **self._named(job)})

    def status(self, job: SimJob, links: Sequence[str]) -> Told:  # noqa: ARG002  its result has them
        states = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}
        document: Fields = {"status": states.get(job.state, "COMPLETED"), "logs": None, **self._named(job)}
        if job.has_ended:
            document["metrics"] = {"inference_time": job.metered_ms / 1000}
        if job.state == "canceled":
            document["error_type"] = "client_cancelled"
        return Told(200 if job.has_ended else 202, document)

    def result(self, job: SimJob, links: Sequence[str]) -> Told:
        if job.state == "failed":
            status, kind = _FAL_FAILURES[job.directives.fail]
            if status == 422:
                return Told(status, {"detail": [{"loc": ["body"], "msg": "said in confidence", "type": kind}]})
            return Told(status, {"detail": "said in confidence", "error_type": kind}, (("X-Fal-Error-Type", kind),))
        if job.state == "canceled":
            return Told(499, {"detail": "cancelled", "error_type": "client_cancelled"})
        if not job.has_ended:
            return self.refused(400, "Request is still in progress")
        kind = {"png": "image/png", "mp4": "video/mp4", "wav": "audio/wav"}[job.media]
        files: list[Fields] = [
            {"url": link, "content_type": kind, "file_name": f"{at}"} for at, link in enumerate(links)
        ]
        if job.media == "png":
            return Told(200, {"images": files, "seed": 7}, (("X-Fal-Billable-Units", str(job.count)),))
        for each in files:
            each["duration"] = job.duration_ms / 1000
        units = str(job.count * job.duration_ms / 1000)
        name = "video" if job.media == "mp4" else "audio"
        return Told(200, {name: files[0] if files else None, "seed": 7}, (("X-Fal-Billable-Units", units),))

    def cancelled(self, job: SimJob, *, is_late: bool) -> Told:  # noqa: ARG002
        return (
            Told(400, {"status": "ALREADY_COMPLETED"}) if is_late else Told(202, {"status": "CANCELLATION_REQUESTED"})
        )

    def refused(self, status: int, message: str, code: str = "") -> Told:
        return Told(status, {"detail": message, **({"error_type": code} if code else {})})

    def callback(self, job: SimJob, links: Sequence[str]) -> Fields:
        result = self.result(job, links)
        is_fine = result.status == 200
        error: Fields = {} if is_fine else {"error": f"Invalid status code: {result.status}"}
        named = {"request_id": job.id, "gateway_request_id": job.id}
        return {**named, "status": "OK" if is_fine else "ERROR", **error, "payload": result.document}

    def _named(self, job: SimJob) -> Fields:
        owner = "/".join(job.model.split("/")[:2])
        base = f"{self.prefix}/{owner}/requests/{job.id}"
        return {
            "request_id": job.id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }


class PlainStyle(JobStyle):
    """A provider as the kind `http-job` describes one; `docs/reference/simulator.md` has the description."""

    name, prefix = "plain", "/plain"

    def submission(self, request: HttpRequest, path: str) -> Asked | None:
        if (request.method, path) != ("POST", "/jobs"):
            return None
        body = _object(request)
        asked = body.get("input")
        if not isinstance(asked, dict) or not _text(body.get("model")):
            raise InvalidRequest("model and input are required")
        token = _text(body.get("reference")) or request.fields.get("idempotency-key", "")
        return Asked(_text(body["model"]), asked, token, _text(body.get("notify")))

    def job_of(self, method: str, path: str) -> tuple[str, str]:
        job_id = path.removeprefix("/jobs/")
        if not path.startswith("/jobs/") or "/" in job_id:
            return "", ""
        return {"GET": "status", "DELETE": "cancel"}.get(method, ""), job_id

    def listed(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> str | None:
        return query.get("reference", [""])[0] if (method, path) == ("GET", "/jobs") else None

    def created(self, job: SimJob) -> Told:
        return Told(202, self._shown(job, ()))

    def status(self, job: SimJob, links: Sequence[str]) -> Told:
        return Told(200, self._shown(job, links))

    def result(self, job: SimJob, links: Sequence[str]) -> Told:
        return self.status(job, links)

    def list_of(self, jobs: Sequence[SimJob]) -> Told:
        return Told(200, {"items": [self._shown(job, ()) for job in jobs]})

    def refused(self, status: int, message: str, code: str = "") -> Told:
        return Told(status, {"error": {"code": code or f"E{status}", "message": message}})

    def callback(self, job: SimJob, links: Sequence[str]) -> Fields:
        return self._shown(job, links)

    def _shown(self, job: SimJob, links: Sequence[str]) -> Fields:
        shown: Fields = {
            "id": job.id,
            "phase": job.state,
            "reference": job.token,
            "files": [{"url": each} for each in links],
        }
        if job.state == "succeeded":
            shown["made"] = {"images": job.count if job.media == "png" else 0, "seconds": job.count * _seconds(job)}
        if job.state == "failed":
            shown["error"] = {"code": job.directives.fail, "message": "said in confidence"}
        return shown


JOB_STYLES: tuple[JobStyle, ...] = (ReplicateStyle(), FalStyle(), PlainStyle())

_PROSE = {
    "1": "said in confidence: CUDA error",
    "input": "said in confidence: invalid input (E006)",
    "moderation": "said in confidence: flagged as sensitive (E005)",
    "timeout": "said in confidence: timed out",
    "busy": "said in confidence: high demand (E003)",
}
_FAL_FAILURES = {
    "1": (500, "internal_server_error"),
    "input": (422, "value_error"),
    "moderation": (422, "content_policy_violation"),
    "timeout": (504, "generation_timeout"),
    "busy": (503, "runner_scheduling_failure"),
}


def _object(request: HttpRequest) -> Fields:
    try:
        return _decode(request.body)
    except msgspec.DecodeError:
        raise InvalidRequest("the body is not a JSON object") from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(job: SimJob) -> float:
    return 0 if job.media == "png" else job.duration_ms / 1000


def _made(job: SimJob) -> Fields:
    if job.media == "png":
        return {"image_output_count": job.count}
    name = "video" if job.media == "mp4" else "audio"
    return {f"{name}_output_duration_seconds": job.count * _seconds(job)}


def _moment(job: SimJob) -> str:
    return datetime.fromtimestamp(job.created_unix_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
