"""Refusals as callers read them. All of an answer but the request's id is rendered once for as long as it is asked for:
what refuses so that others are answered has to be cheap."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from waypost.gateway.heads import request_header
from waypost.gateway.limits import LimitExceeded
from waypost.gateway.pressure import RETRY_S_MAX
from waypost.gateway.relay import JSON_TYPE
from waypost.kit import ids
from waypost.kit.errors import ErrorCode, Refusal
from waypost.wire.dialects import error_headers, render_error

_KEPT = 512  # some 1 KiB each: codes, messages and waits in four dialects
_NOBODY = bytes(16)
_PLACE = ids.text("req", _NOBODY)  # where the id goes

SHED = tuple(Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=wait_s) for wait_s in range(RETRY_S_MAX + 1))
"""By the wait: what `Pressure.shed` refuses with. Told and never raised, which would tie somebody's frames to it."""


class Telling(msgspec.Struct, frozen=True, gc=False):
    """An answer in parts, between which the shown id of its request stands."""

    status: int
    code: str
    lines: tuple[bytes, ...]
    body: tuple[bytes, ...]


def telling(dialect: str, refusal: Refusal) -> Telling:
    """`refusal` in a dialect of `wire.dialects.render_error`."""
    if type(refusal) is not Refusal and type(refusal) is not LimitExceeded:
        return _rendered(dialect, refusal)  # it says more than what follows
    if refusal.param is not None or refusal.message != refusal.code.message:
        return _rendered(dialect, refusal)  # its words may be the caller's, which are not to be kept
    return _standing(dialect, refusal.code, refusal.message, refusal.param, refusal.detail, refusal.retry_after_s)


@lru_cache(maxsize=_KEPT)
def _standing(
    dialect: str, code: ErrorCode, message: str, param: str | None, detail: str, retry_after_s: int | None
) -> Telling:
    return _rendered(dialect, Refusal(code, message, param=param, detail=detail, retry_after_s=retry_after_s))


def _rendered(dialect: str, refusal: Refusal) -> Telling:
    lines = JSON_TYPE + request_header(_NOBODY, dialect) + error_headers(refusal)
    body = render_error(dialect, refusal, _PLACE)
    place = _PLACE.encode()
    return Telling(refusal.code.status, refusal.code.name, tuple(lines.split(place)), tuple(body.split(place)))
