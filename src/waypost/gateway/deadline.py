"""The deadline of a call: `X-Request-Timeout: SECONDS`, from when its request is there to the end of its answer.

There is no standard header for it. The name is the one that proxies and gateways of the field agree on but for a prefix
of their own, the unit that of the SDKs' `timeout`. What those send unasked (`X-Stainless-Timeout`,
`X-Stainless-Read-Timeout`) is none: it tells how long they wait for the next bytes, and an answer may take longer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from waypost.kit.errors import invalid

HEADER = b"x-request-timeout"
S_MIN = 1.0  # less would end nearly every call, and be paid
S_MAX = 600.0  # what a plain call may take without it
_SECONDS = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3})?")


def ends_at_s(headers: Mapping[bytes, bytes], now_s: float) -> float:
    """When the call is to be over, on the clock of `now_s`. Raises Refusal 400 for what is no such number."""
    given = headers[HEADER]
    seconds = float(given) if _SECONDS.fullmatch(given) else 0.0
    if not S_MIN <= seconds <= S_MAX:
        told = f"'X-Request-Timeout' is a number of seconds from {S_MIN:g} to {S_MAX:g}, such as 30 or 2.5."
        raise invalid("X-Request-Timeout", told, "OUT_OF_RANGE")
    return now_s + seconds
