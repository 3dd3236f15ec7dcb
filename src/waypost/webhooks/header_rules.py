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
    """A header that is not sent along. The message is a sentence for whoever asked, and quotes nothing."""


def read_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers by their names in small letters. Raises HeaderRefused. `User-Agent` may be another one."""
    if len(headers) > HEADERS_MAX:
        raise HeaderRefused(f"At most {HEADERS_MAX} headers.")
    found: dict[str, str] = {}
    for name, value in headers.items():
        small = name.lower()
        if _NAME.fullmatch(name) is None:
            raise HeaderRefused("The name of a header is of letters, digits and hyphens, at most 64.")
        if small in _OURS or small.startswith(_OUR_PREFIXES):
            raise HeaderRefused("One of these headers is HTTP's or ours, and cannot be set.")
        if small in found:
            raise HeaderRefused("Each header once, whatever its letters.")
        if len(value) > VALUE_CHARACTERS_MAX or _VALUE.fullmatch(value) is None:
            raise HeaderRefused(
                f"The value of a header is visible ASCII, at most {VALUE_CHARACTERS_MAX} characters, without spaces "
                "around it."
            )
        found[small] = value
    return found
