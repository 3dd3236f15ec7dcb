"""A simulated provider of jobs, reached by errands: it takes jobs, may lose what it answers, and remembers everything,
so that a schedule can be judged by it. Its clock is the schedule's.
"""

from __future__ import annotations

import json
from random import Random
from urllib.parse import parse_qs, urlsplit

import msgspec

from waypost.wire.errand import Ambiguous, Answered, Errand, NotSent, Sent

PREFIX = "/v1"
JSON = {b"content-type": b"application/json"}


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """What this provider can do, and how its jobs fare."""

    repeats_safely: bool  # one job for one idempotency key
    looks_up: bool  # by our token
    calls_back: bool
    run_s: float
    outcome: str  # "done", "failed", "empty", "stuck"
    trouble: float  # share of calls that go wrong


class ProviderJob(msgspec.Struct):
    id: str
    token: str
    begun_s: float
    ended: str = ""  # when it was cancelled

    def phase(self, habits: Habits, now_s: float) -> str:
        if self.ended:
            return self.ended
        if now_s < self.begun_s + habits.run_s / 2:
            return "queued"
        if now_s < self.begun_s + habits.run_s or habits.outcome == "stuck":
            return "running"
        return "failed" if habits.outcome == "failed" else "done"


class JobProvider:
    """Answers errands of one execution."""

    def __init__(self, habits: Habits, dice: Random) -> None:
        self.habits = habits
        self.jobs: list[ProviderJob] = []
        self.submissions: list[str] = []  # tokens of what it received
        self.ambiguous = 0
        self._dice = dice

    def answer(self, errand: Errand, now_s: float) -> Sent:
        """Of the call as it arrives, or not, at that moment."""
        path = urlsplit(errand.url).path.removeprefix(PREFIX)
        is_submission = errand.method == "POST" and path == "/jobs"
        fate = self._dice.random() / self.habits.trouble if self.habits.trouble else 1.0
        if fate < 0.2:
            return NotSent("connect_refused", retry_after_s=self._dice.choice((None, 3.0)))
        if fate < 0.4 and is_submission:
            return Answered(self._dice.choice((429, 500, 503)), JSON, b'{"error":"busy"}', "k1")
        if fate < 0.5:
            self.ambiguous += is_submission
            return Ambiguous("timeout", credential="k1")  # it never arrived
        answered = self._answered(errand, path, now_s)
        if fate < 0.75:
            self.ambiguous += is_submission
            return Ambiguous("reset", credential="k1")
        if fate < 1.0:
            self.ambiguous += is_submission
            return Answered(self._dice.choice((502, 504)), JSON, b"<html>", "k1")  # a proxy lost the answer
        return answered

    def _answered(self, errand: Errand, path: str, now_s: float) -> Sent:
        if errand.method == "POST" and path == "/jobs":
            return self._submitted(errand, now_s)
        if errand.method == "GET" and path == "/jobs":
            token = parse_qs(urlsplit(errand.url).query)["reference"][0]
            found = [self._shown(job, now_s) for job in self.jobs if job.token == token]
            return Answered(200, JSON, json.dumps({"items": found}).encode(), "k1")
        job = next((each for each in self.jobs if each.id == path.removeprefix("/jobs/")), None)
        if job is None:
            return Answered(404, JSON, b"{}", "k1")
        if errand.method == "DELETE" and job.phase(self.habits, now_s) in ("queued", "running"):
            job.ended = "cancelled"
        return Answered(200, JSON, json.dumps(self._shown(job, now_s)).encode(), "k1")

    def _submitted(self, errand: Errand, now_s: float) -> Sent:
        body = json.loads(errand.body)
        token = body["reference"]
        self.submissions.append(token)
        known = next((job for job in self.jobs if job.token == token), None)
        if known is None or not self.habits.repeats_safely:
            known = ProviderJob(f"job-{len(self.jobs) + 1}", token, now_s)
            self.jobs.append(known)
        return Answered(201, JSON, json.dumps(self._shown(known, now_s)).encode(), "k1")

    def _shown(self, job: ProviderJob, now_s: float) -> dict[str, object]:
        phase = job.phase(self.habits, now_s)
        files = ["https://provider.test/out.png"] if phase == "done" and self.habits.outcome == "done" else []
        return {"id": job.id, "reference": job.token, "phase": phase, "files": files}
