"""The public port of a gateway: where it listens, in front of what, and what of that changes while it serves."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from functools import lru_cache

from waypost.app.live_settings import EgressSettings, LiveSettings
from waypost.dispatch.egress import Egress
from waypost.gateway.cross_origin import CrossOrigin
from waypost.transport.exchange import Exchange
from waypost.transport.http1_server import Http1Server, Refuse
from waypost.transport.tls import ServerTls, client_context

_PEERS_REMEMBERED = 4096


class SettingUnusable(Exception):
    """What a setting names cannot be used. The message is a sentence for the operator."""


class Front:
    """`server` listens when it is told to. `adopt` may be called again and again."""

    def __init__(
        self, handler: Callable[[Exchange], None], refuse: Refuse, *, on_bug: Callable[[BaseException], None]
    ) -> None:
        self._handler = handler
        self._tls = ServerTls()
        self.server = Http1Server(handler, refuse, on_bug=on_bug)

    def adopt(self, live: LiveSettings) -> None:
        """Serve by these from now on. Raises TlsFilesUnusable: then nothing has changed."""
        if live.tls is not None:
            self._tls.load(live.tls.certificate, live.tls.private_key)
        handler = CrossOrigin(live.cors_origins, self._handler).handle if live.cors_origins else self._handler
        self.server.use(handler, live.limits, is_within(live.trusted_proxies))

    def ssl_context(self, live: LiveSettings) -> ssl.SSLContext | None:
        """What to listen with."""
        return self._tls.context if live.tls is not None else None


def make_egress(settings: EgressSettings) -> Egress:
    """Raises SettingUnusable when the authorities cannot be read."""
    context = None
    if settings.ca_bundle:
        try:
            context = client_context(ca_bundle=settings.ca_bundle)
        except (OSError, ssl.SSLError):
            raise SettingUnusable(
                f"egress.ca_bundle: {settings.ca_bundle} cannot be read as PEM certificates"
            ) from None
    return Egress(ssl_context=context, proxy=settings.proxy, proxy_except=settings.proxy_except)


def is_within(networks: tuple[str, ...]) -> Callable[[str], bool]:
    """A test whether an address lies in one of them; for text that is no address it is false."""
    if not networks:
        return lambda _: False
    parsed = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=_PEERS_REMEMBERED)
    def test(host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in parsed)

    return test
