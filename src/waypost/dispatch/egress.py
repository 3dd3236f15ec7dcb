"""The way to a provider: whose certificates are believed, and whether a proxy is asked to connect us."""

from __future__ import annotations

import ipaddress
import ssl
from urllib.parse import urlsplit

import msgspec

from waypost.transport.origin import Origin
from waypost.transport.tls import client_context
from waypost.transport.tunnel import Proxy


class Egress(msgspec.Struct, frozen=True, kw_only=True):
    """`ssl_context` None: the system's authorities. `proxy` is asked for all hosts but those excepted (a name, or
    `.example.org` for all below it) and loopback addresses."""

    ssl_context: ssl.SSLContext | None = None
    proxy: Proxy | None = None
    proxy_except: tuple[str, ...] = ()


def origin_of(base_url: str, egress: Egress) -> Origin:
    """Where the pool of that address connects to."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    proxy = None if _is_excepted(host, egress.proxy_except) else egress.proxy
    if parts.scheme == "https":
        context = egress.ssl_context or client_context()
        return Origin(host=host, port=parts.port or 443, ssl_context=context, server_hostname=host, proxy=proxy)
    return Origin(host=host, port=parts.port or 80, proxy=proxy)


def _is_excepted(host: str, excepted: tuple[str, ...]) -> bool:
    if host == "localhost" or any(host == each or (each[0] == "." and host.endswith(each)) for each in excepted):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
