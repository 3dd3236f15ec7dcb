"""Whose request it is, when proxies stand between: the rightmost address of `X-Forwarded-For` that is no proxy of ours.

Every proxy appends whom it heard from, so what stands to the right of the first stranger was written by proxies that we
trust, and everything to its left may be made up.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_HOPS_MAX = 32  # more than any chain of proxies; the rest of the header is not looked at


class TrustedProxies:
    """Networks whose members may say on whose behalf they speak."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """Networks or addresses. Raises ValueError for what is neither."""
        self._networks = tuple(ip_network(each) for each in networks)

    def __contains__(self, host: object) -> bool:
        address = _address(host) if isinstance(host, str) and self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def client_of(self, peer: str, forwarded_for: bytes) -> str:
        """The caller's address. `peer` is whom the connection is from; it counts itself unless it is trusted."""
        if not self._networks or peer not in self:
            return peer
        client = peer
        for part in reversed(forwarded_for.decode("latin-1").split(",")[-_HOPS_MAX:]):
            address = _address(part.strip())
            if address is None:
                return client  # what we cannot read, nobody vouches for
            client = str(address)
            if client not in self:
                return client
        return client


def site_of(host: str) -> str:
    """What one caller can hold of: the address, of IPv6 its first 64 bits."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return host


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, also with a port, in brackets, or as IPv4 mapped into IPv6."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
