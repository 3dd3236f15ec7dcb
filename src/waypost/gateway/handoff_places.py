"""Who may have how much of the hand-off at once, so that nobody's long answers stand in everybody's way.

    all                    256 requests
    but callbacks          240   what a provider tells of its jobs always finds a place
    of an organisation     128   whose key came with them
    long ones              128   event streams, answers that are waited for, contents of files
    of one organisation     32   or, where no key came, of one address
    uploads                 64   each keeps up to half a MiB on its way
    of one organisation     32   likewise

Who has used up an own share is told so, with 429; what all have used up is nobody's fault: 503.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import TypeVar

import msgspec

from waypost.kit.errors import ErrorCode, Refusal
from waypost.transport.exchange import Exchange

IN_FLIGHT_MAX = 256  # what the control process holds up must not hold up the gateway
KEPT_FOR_CALLBACKS = 16
ORGANISATION_MAX = 128
LONG_MAX = 128
LONG_OF_OWNER_MAX = 32
UPLOADS_MAX = 64
UPLOADS_OF_OWNER_MAX = 32
_OWN_RETRY_AFTER_S = 5  # a long answer takes a while
_RETRY_AFTER_S = 2
_CALLBACKS = "/v1/callbacks/"
_SAFE = ("GET", "HEAD")
_Of = TypeVar("_Of")


class Kind(enum.Enum):
    """How long a request is likely to keep its place."""

    ORDINARY = enum.auto()
    CALLBACK = enum.auto()
    LONG = enum.auto()
    UPLOAD = enum.auto()


class Place(msgspec.Struct, frozen=True, gc=False):
    """That somebody has."""

    kind: Kind
    owner: bytes
    has_key: bool


_SHARES = {Kind.LONG: (LONG_MAX, LONG_OF_OWNER_MAX), Kind.UPLOAD: (UPLOADS_MAX, UPLOADS_OF_OWNER_MAX)}


def kind_of(exchange: Exchange) -> Kind:
    """By its head alone."""
    path = exchange.path
    if exchange.incoming is not None:
        return Kind.UPLOAD
    if path.startswith(_CALLBACKS):
        return Kind.CALLBACK
    if exchange.method in _SAFE:
        is_content = path.endswith(("/events", "/content", "/download")) or path.startswith("/v1/inputs/")
        return Kind.LONG if is_content else Kind.ORDINARY
    return Kind.LONG if b"wait" in exchange.headers.get(b"prefer", b"").lower() else Kind.ORDINARY


class Places:
    """Of one hand-off."""

    def __init__(self) -> None:
        self.taken = 0
        self._by_kind: Counter[Kind] = Counter()
        self._by_owner: Counter[tuple[Kind, bytes]] = Counter()
        self._by_organisation: Counter[bytes] = Counter()

    def taken_by(self, kind: Kind) -> int:
        return self._by_kind[kind]

    def take(self, place: Place) -> None:
        """Raises Refusal, with nothing taken: 429 where it is the owner's own share that is used up, else 503."""
        kind, owner = place.kind, place.owner
        if place.has_key and self._by_organisation[owner] >= ORGANISATION_MAX:
            raise _used_up(ORGANISATION_MAX, "requests, beside model calls, are under way")
        of_all, of_owner = _SHARES.get(kind, (IN_FLIGHT_MAX, IN_FLIGHT_MAX))
        if self._by_owner[kind, owner] >= of_owner:
            what = "uploads" if kind is Kind.UPLOAD else "requests that wait for answers, events or contents"
            raise _used_up(of_owner, f"{what} are under way")
        left = IN_FLIGHT_MAX - self.taken
        if left <= (0 if kind is Kind.CALLBACK else KEPT_FOR_CALLBACKS) or self._by_kind[kind] >= of_all:
            raise Refusal(ErrorCode.SERVICE_UNAVAILABLE, retry_after_s=_RETRY_AFTER_S)
        self._count(place, 1)

    def give_back(self, place: Place) -> None:
        self._count(place, -1)

    def _count(self, place: Place, by: int) -> None:
        self.taken += by
        self._by_kind[place.kind] += by
        _add(self._by_owner, (place.kind, place.owner), by)
        if place.has_key:
            _add(self._by_organisation, place.owner, by)


def _used_up(most: int, what: str) -> Refusal:
    told = f"{most} {what}, as many as an organisation may have at one time. Wait for one."
    return Refusal(ErrorCode.RATE_LIMITED, told, retry_after_s=_OWN_RETRY_AFTER_S)


def _add(counts: Counter[_Of], of: _Of, by: int) -> None:
    """Who has nothing any more is forgotten."""
    counts[of] += by
    if not counts[of]:
        del counts[of]
