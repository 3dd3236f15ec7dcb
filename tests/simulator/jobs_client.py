"""Talks to the simulated providers of jobs in the words of the product's own kinds, and hears their callbacks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tests.simulator.raw_client import Heard, connect
from waypost.providers import JOB_KINDS
from waypost.providers.job import Job, JobAnswer, JobCall, JobDescription, JobKind, JobTarget, Submission
from waypost.simulator import Simulator

# As docs/reference/simulator.md describes the plain style.
PLAIN = JobDescription(
    submit_path="/jobs",
    status_path="/jobs/{id}",
    cancel_path="/jobs/{id}",
    cancel_method="DELETE",
    look_up_path="/jobs?reference={token}",
    token_field="reference",
    callback_field="notify",
    idempotency_header="Idempotency-Key",
    state="phase",
    outputs="files",
    jobs="items",
    images="made.images",
    seconds="made.seconds",
    signature_header="X-Sim-Signature",
    signature_prefix="sha256=",
    timestamp_header="X-Sim-Time",
    event_header="X-Sim-Event",
)
KINDS = {"replicate": JOB_KINDS["replicate"], "fal": JOB_KINDS["fal"], "plain": JOB_KINDS["http-job"]}
TOKEN = "0123456789abcdef0123456789abcdef"


class Client:
    """One kind at one simulator."""

    def __init__(self, sim: Simulator, style: str, model: str = "acme/paint") -> None:
        self.sim = sim
        self.style = style
        self.kind: JobKind = KINDS[style]
        description = PLAIN if style == "plain" else None
        self.target = JobTarget("p", f"/{style}", model, description=description)

    async def submit(self, prompt: str = "", *, callback_url: str = "", token: str = "", **fields: Any) -> Job:
        sent = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in {"prompt": prompt, **fields}.items()}
        call = self.kind.submit(Submission(sent, token or f"{len(self.sim.requests):032x}", callback_url), self.target)
        return self.kind.read_submit(await self.call(call), self.target)

    async def status(self, job_id: str) -> Job:
        job = self.kind.read_status(await self.call(self.kind.status(job_id, self.target)), self.target)
        if job.has_outputs or job.state.value != "succeeded":
            return job
        return self.kind.read_result(await self.call(self.kind.result(job_id, self.target)), self.target)

    async def cancel(self, job_id: str) -> None:
        call = self.kind.cancel(job_id, self.target)
        assert call is not None
        await self.call(call)

    async def ended(self, job_id: str) -> Job:
        await self.sim.until(lambda: any(job.id == job_id and job.has_ended for job in self.sim.jobs))
        return await self.status(job_id)

    async def call(self, call: JobCall, *, key: str = "k") -> JobAnswer:
        lines = f"Authorization: {self.kind.credential_scheme} {key}\r\nConnection: close\r\n"
        lines += "".join(f"{name}: {value}\r\n" for name, value in call.headers)
        heard = await asked(self.sim, call.method, call.path, call.body, lines)
        return JobAnswer(heard.status, {k.encode(): v.encode() for k, v in heard.headers.items()}, heard.body)


async def asked(
    sim: Simulator, method: str, path: str, body: bytes = b"", lines: str = "Connection: close\r\n"
) -> Heard:
    caller = await connect(sim)
    caller.send(body, path=path, method=method, headers=lines)
    return await caller.rest()


class Ear:
    """Hears callbacks on loopback; answers each with the next of `statuses`, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self._statuses = list(statuses)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Ear:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/callbacks/{TOKEN}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        self.heard.append((fields, await reader.readexactly(int(fields["content-length"]))))
        status = self._statuses.pop(0) if self._statuses else 200
        writer.write(f"HTTP/1.1 {status} Heard\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
