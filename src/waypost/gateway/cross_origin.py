"""Browsers on other sites: which of them may read our answers (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

Keys travel in headers that a script sets itself, so no answer allows credentials, and the origins are exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from waypost.transport.exchange import Exchange

# What a browser hides from a script unless it is named: every header of our answers that says something.
EXPOSED = (
    b"x-request-id, request-id, x-execution-id, x-should-retry, retry-after, x-dropped-parameters, "
    b"x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, location, preference-applied, idempotent-replayed"
)
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE_S = 600
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")
_VARY = b"vary: Origin\r\n"
_PREFLIGHT_VARY = b"vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"


class CrossOrigin:
    """A handler before another one: answers preflights, and names the origin in what the other one answers."""

    def __init__(self, origins: Sequence[str], handler: Callable[[Exchange], None]) -> None:
        self._handler = handler
        allowed = ((origin.encode(), b"access-control-allow-origin: %b\r\n" % origin.encode()) for origin in origins)
        self._allowed = dict(allowed)

    def handle(self, exchange: Exchange) -> None:
        headers = exchange.headers
        origin = headers.get(b"origin")
        allowed = None if origin is None else self._allowed.get(origin)
        if allowed is None:
            exchange.more_headers = _VARY  # a cache must not give this answer to an origin that is allowed
        elif exchange.method == "OPTIONS" and b"access-control-request-method" in headers:
            exchange.respond(204, _preflight(allowed, headers.get(b"access-control-request-headers", b"")), b"")
            return
        else:
            exchange.more_headers = b"%b%baccess-control-expose-headers: %b\r\n" % (allowed, _VARY, EXPOSED)
        self._handler(exchange)


def _preflight(allowed: bytes, wanted: bytes) -> bytes:
    names = wanted if _HEADER_NAMES.fullmatch(wanted) else b""
    headers = b"access-control-allow-headers: %b\r\n" % names if names else b""
    return b"%baccess-control-allow-methods: %b\r\n%baccess-control-max-age: %d\r\n%b" % (
        allowed,
        _METHODS,
        headers,
        _MAX_AGE_S,
        _PREFLIGHT_VARY,
    )
