"""A job at a simulated provider: what was asked for, how it fares as time passes, and how its course is steered.

Words in the prompt steer it, as they steer an answer (`directive`): `sim: run_ms=50 fail=1`; in the model's name they
follow a colon: `sim-video:run_ms-50`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from waypost.simulator.directive import Milliseconds, pairs_of

Few = Annotated[int, msgspec.Meta(ge=0, le=64)]
Times = Annotated[int, msgspec.Meta(ge=0, le=100)]


class JobDirectives(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    queue_ms: Milliseconds = 20  # waiting
    run_ms: Milliseconds = 50  # running; what a provider that meters time bills
    outputs: Few | None = None  # files made; by default as many as were asked for, or one
    seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None  # of video or sound; by default as asked, or 4
    media: Literal["", "png", "mp4", "wav"] = ""  # by default as the model's name says
    bytes: Annotated[int, msgspec.Meta(ge=0, le=256 << 20)] = 0  # that a film is longer
    fail: Literal["", "0", "1", "input", "moderation", "timeout", "busy"] = ""  # it fails, for that reason
    stuck: bool = False  # 1: it runs for ever
    cancel: Literal["at_once", "late"] = "at_once"  # late: it ends as if nobody had asked
    callback: Literal["once", "never", "twice", "late", "forged", "unsigned", "early"] = "once"
    late_ms: Milliseconds = 2_000  # how late a late callback is
    expired: Times = 0  # addresses of outputs that have expired when they are given out, the first ones
    output: Literal["", "missing", "wrong_type", "broken"] = ""  # what is at the address instead
    link_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 3_600  # that an address of an output is good for
    vanish: bool = False  # 1: once it has ended the provider knows no such job


def read_job_directives(prompt: str, model: str) -> JobDirectives:
    """Raises msgspec.ValidationError for an unknown name or a value out of range in the prompt."""
    found = pairs_of(prompt, model, JobDirectives)
    return msgspec.convert(found, JobDirectives, strict=False) if found else JobDirectives()


class SimJob(msgspec.Struct):
    """Times are `time.monotonic()` seconds, 0: not yet."""

    id: str
    style: str
    model: str
    token: str  # the caller's, "" without one
    callback_url: str
    directives: JobDirectives
    media: str
    count: int  # files to be made
    duration_ms: int  # of each
    created_s: float
    created_unix_ms: int
    state: str = "queued"  # running, succeeded, failed, canceled
    started_s: float = 0.0
    ended_s: float = 0.0
    is_cancel_asked: bool = False
    links_given: int = 0
    polls: int = 0
    callbacks: list[int] = []  # the statuses of what was called, 0 = nobody answered

    @property
    def has_ended(self) -> bool:
        return self.state in ("succeeded", "failed", "canceled")

    @property
    def metered_ms(self) -> int:
        """The time that it computed, as it is billed: a whole run, or nothing."""
        return int(self.directives.run_ms) if self.state in ("succeeded", "failed") else 0

    def shown(self) -> dict[str, object]:
        names = ("id", "style", "model", "token", "callback_url", "state", "count", "polls", "callbacks")
        return {name: getattr(self, name) for name in (*names, "is_cancel_asked", "created_s", "ended_s")}
