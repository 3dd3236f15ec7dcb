"""Where a connection goes to."""

from __future__ import annotations

import ssl

import msgspec

from waypost.transport.tunnel import Proxy


class Origin(msgspec.Struct, frozen=True):
    """Where a pool connects to: a host and port, or a Unix socket when `unix_path` is set."""

    host: str = ""
    port: int = 0
    ssl_context: ssl.SSLContext | None = None
    server_hostname: str = ""
    """The name that the certificate must bear; the host when empty."""
    unix_path: str = ""
    proxy: Proxy | None = None
    """Asked to connect us there; TLS and HTTP run through it, so it reads nothing of an https origin."""
