"""An errand: one HTTP call to a provider that a gateway makes for the worker, which has no credentials and no way out.

What comes of it tells apart what must not be mixed up: a call that was never sent may be sent again, one that was sent
and then lost may have had its effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

ANSWER_BYTES_MAX = 8 << 20
_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,8192}")
_URL = re.compile(r"[\x21-\x22\x24-\x7e]{1,4096}")  # printable ASCII without a fragment
# The gateway writes these itself.
_OURS = frozenset(
    (
        *("accept-encoding", "connection", "content-length", "expect", "host"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)


class Errand(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to send, and to whom. Raises ValueError when a part could break out of its place in the request's head."""

    provider: str  # ids in the catalogue
    deployment: str
    method: str
    url: str  # a path with its query, or a whole URL; of the provider's origin
    timeout_s: float  # in all
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    credential: str = ""  # digest of the one to use, as an earlier answer told; "" is whichever is ready
    catalogue_version: int = 0  # an earlier one that has the deployment, where the newest does not; 0 = none
    credential_scheme: str = "Bearer"  # before it in `authorization`; where the provider has a header of its own, bare

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError("not a method of an errand")
        if _URL.fullmatch(self.url) is None or self.timeout_s <= 0:
            raise ValueError("not a URL or a time")
        for name, value in (*self.headers, ("authorization", self.credential_scheme)):
            if _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
                raise ValueError("not a header")
            if name.lower() in _OURS:
                raise ValueError("this header is written by the gateway")

    def __repr__(self) -> str:
        return f"<errand to {self.deployment}>"  # never the body


class Answered(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The provider's answer, whichever it is."""

    status: int
    headers: dict[bytes, bytes]  # of `KEPT_HEADERS`, names in lower case
    body: bytes
    credential: str  # digest of the one that was used

    def __repr__(self) -> str:
        return f"<answer {self.status}>"  # never the body


class NotSent(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """The provider has certainly not received it."""

    reason: str  # a word of ours: see docs/reference/worker-port.md
    retry_after_s: float | None = None


class Ambiguous(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """It was sent, and there is no whole answer: the provider may have acted on it."""

    reason: str
    status: int = 0  # when the head of an answer had come
    credential: str = ""


Sent = Answered | NotSent | Ambiguous
KEPT_HEADERS = frozenset(
    (
        *(b"content-type", b"date", b"location", b"retry-after", b"retry-after-ms"),
        *(b"x-fal-billable-units", b"x-fal-error-type"),  # fal tells nowhere else
    )
)

encode_errand = msgspec.msgpack.Encoder().encode
decode_errand = msgspec.msgpack.Decoder(Errand).decode
"""Raises ValueError."""
encode_sent = msgspec.msgpack.Encoder().encode
_decode_sent = msgspec.msgpack.Decoder(Sent).decode


def decode_sent(data: bytes) -> Sent:
    """Raises ValueError."""
    sent: Sent = _decode_sent(data)
    return sent


def kept(headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Of a provider's headers those that are passed on."""
    return {name: value for name, value in headers.items() if name in KEPT_HEADERS}


def is_at_origin(url: str, origins: Sequence[str]) -> bool:
    """Whether a whole URL has one of these origins (`https://host:port`, or without the port where it is the usual)."""
    return any(url == origin or url.startswith((f"{origin}/", f"{origin}?")) for origin in origins)
