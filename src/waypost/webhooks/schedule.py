"""What comes after an attempt: nothing, another one later, or a dead letter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum

import msgspec

JITTER = 0.2
RETRY_AFTER_S_MAX = 86_400
_GONE = 410


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Pauses after the first attempt and each that follows; their number is that of the retries. ModelRoute's."""

    retry_s: tuple[float, ...] = (120, 240, 480, 960, 1800)
    expires_s: float = 86_400


class Reason(Enum):
    """Why a delivery is a dead letter."""

    EXHAUSTED = "exhausted"  # the last retry failed
    EXPIRED = "expired"
    GONE = "gone"  # 410
    INACTIVE = "endpoint_inactive"
    DELETED = "endpoint_deleted"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt went: the status that came, or the kind of failure without one."""

    status: int | None = None
    failure: str | None = None
    retry_after: str | None = None  # the header, as it came
    took_s: float = 0.0

    @property
    def is_success(self) -> bool:
        """2xx and nothing else: a redirect is not followed."""
        return self.status is not None and 200 <= self.status <= 299

    @property
    def is_gone(self) -> bool:
        """The receiver wants no more of them."""
        return self.status == _GONE

    @property
    def error(self) -> str | None:
        """In one word, for the organisation: `http_500`, `timeout`, `tls` …"""
        return None if self.is_success else self.failure or f"http_{self.status}"


class Delivered(msgspec.Struct, frozen=True):
    pass


class Retry(msgspec.Struct, frozen=True):
    at: datetime


class Dead(msgspec.Struct, frozen=True):
    reason: Reason


def next_step(
    schedule: Schedule, attempt: Attempt, *, attempts: int, now: datetime, expires_at: datetime, chance: float
) -> Delivered | Retry | Dead:
    """`attempts` counts this one; `chance` from 0 to 1 is the jitter's."""
    if attempt.is_success:
        return Delivered()
    if attempt.is_gone:
        return Dead(Reason.GONE)
    if attempts > len(schedule.retry_s):
        return Dead(Reason.EXHAUSTED)
    pause_s = schedule.retry_s[attempts - 1] * (1 + JITTER * (2 * chance - 1))
    at = now + timedelta(seconds=max(pause_s, retry_after_s(attempt.retry_after, now)))
    return Dead(Reason.EXPIRED) if at >= expires_at else Retry(at)


def retry_after_s(header: str | None, now: datetime) -> float:
    """Seconds of a Retry-After header (RFC 9110 §10.2.3); 0 for none, or for one that makes no sense."""
    if header is None:
        return 0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(text)
        wait_s = ((at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):
        return 0
    return min(max(0.0, wait_s), RETRY_AFTER_S_MAX)
