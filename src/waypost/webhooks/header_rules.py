"""Which headers an organisation may have sent along: its receiver's own, and none that HTTP or we need."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADERS_MAX = 16
VALUE_CHARACTERS_MAX = 1024
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # a token of RFC 9110 §5.6.2
_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")  # RFC 9110 §5.5, visible ASCII only
_OURS = frozenset(
    (
        # Of the connection (RFC 9110 §7.6.1), of the message, and what would change how it is read.
        *(
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
        ),
        *("host", "content-length", "content-type", "content-encoding", "accept-encoding", "expect", "range"),
    )
)
_OUR_PREFIXES = ("proxy-", "webhook-", "x-signature", "x-waypost-")


class HeaderRefused(Exception):
    """A header that is not sent along, or all of them. The message is a sentence for whoever asked; it and `name` quote
    nothing but a header's name that is one. `detail` is one of `kit.errors.DETAILS`."""

    def __init__(self, message: str, detail: str, name: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        self.name = name


def read_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers by their names in small letters. Raises HeaderRefused. `User-Agent` may be another one."""
    if len(headers) > HEADERS_MAX:
        raise HeaderRefused(f"At most {HEADERS_MAX} headers.", "OUT_OF_RANGE")
    found: dict[str, str] = {}
    for name, value in headers.items():
        small = name.lower()
        if _NAME.fullmatch(name) is None:
            told = "The name of a header is of letters, digits and hyphens, at most 64."
            raise HeaderRefused(told, "INVALID_FORMAT")
        if small in _OURS or small.startswith(_OUR_PREFIXES):
            raise HeaderRefused(f"'{small}' is HTTP's or ours, and cannot be set.", "INVALID_VALUE", small)
        if small in found:
            raise HeaderRefused(f"'{small}' stands twice, in other letters.", "INVALID_VALUE", small)
        if len(value) > VALUE_CHARACTERS_MAX or _VALUE.fullmatch(value) is None:
            told = (
                f"The value of '{small}' is of visible ASCII, at most {VALUE_CHARACTERS_MAX} characters, without "
                "spaces around it."
            )
            raise HeaderRefused(told, "OUT_OF_RANGE" if len(value) > VALUE_CHARACTERS_MAX else "INVALID_FORMAT", small)
        found[small] = value
    return found
