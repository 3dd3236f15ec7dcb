"""What the doctor finds."""

from __future__ import annotations

from enum import Enum

import msgspec


class Verdict(Enum):
    FINE = "ok"
    DOUBTFUL = "warn"
    BAD = "FAIL"


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at; a verdict other than fine says what to do."""

    subject: str
    verdict: Verdict
    sentence: str
