"""Where a call may go whose URL was given by a customer or a provider: to the public internet, and to what
`[egress] allow` names. Decisions only; `upstream.guarded_session` holds every connection to them.

A URL is judged twice: as text (`read_url`), when it is given and before each call, and by the very address that a
connection is made to (`Allowed.may_reach`), since a name can lead anywhere and elsewhere the next time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urlsplit

import idna
import msgspec

Address = IPv4Address | IPv6Address

URL_CHARACTERS_MAX = 2048  # what proxies and servers commonly take
_HOST_CHARACTERS_MAX = 253  # RFC 1035 §2.3.4, without the last dot
_HTTPS = 443
_PORT_MAX = 65535
_PRIVILEGED = 1024  # below it, only HTTPS

# What the IANA special-purpose registries say is not globally reachable, or is a way to somewhere else
# (iana-ipv4-special-registry, iana-ipv6-special-registry), and what clouds answer their own machines at.
_CLOSED_IPV4 = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, public by its number and local by its place
        "169.254.0.0/16",  # link-local, and the clouds' metadata at .169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Global unicast is 2000::/3; all outside it is closed: loopback, unspecified, IPv4-mapped and -compatible, link- and
# site-local, unique local, multicast, the local NAT64 prefix 64:ff9b:1::/48 (where in it an IPv4 address stands, only
# its network knows: RFC 8215), discard-only, segment routing.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_CLOSED_IPV6 = tuple(
    IPv6Network(each)
    for each in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, AMT
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # leads to the IPv4 address in its last 32 bits (RFC 6052)
_ISATAP = (0x00005EFE, 0x02005EFE)  # interface identifiers that do the same (RFC 5214 §6.1)

# Names that no public resolver knows, or should (RFC 6761, 6762, 7686, 8375, and the private TLDs in common use).
_LOCAL_NAMES = (
    *("localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "private", "home.arpa"),
    *("invalid", "onion"),
)
# Ports of services that are no web servers and answer strangers' bytes: browsers' "bad ports" from 1024 on (WHATWG
# Fetch §2.9), databases, and cluster APIs.
_CLOSED_PORTS = frozenset(
    (
        *(1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697),
        *(10080, 1433, 1521, 2375, 2376, 2379, 2380, 3306, 5432, 5984, 6379, 6380, 9042, 9200, 9300, 11211, 27017),
    )
)

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that makes browsers read an IPv4 address (WHATWG URL §3.5)
_UNWRITABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ufeff]")
_ENTRY_PORT = re.compile(r"(.+):([0-9]{1,5})")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@%]+))(?::([0-9]{1,5}))?")
_ASCII = "".join(map(chr, range(0x21, 0x7F)))  # stays as it was written, escapes too: signatures may cover it


_ALLOW = "The operator can let a place of their own be called: [egress] allow."


class UrlForbidden(Exception):
    """A URL that is not called. The message is a sentence for whoever gave it, and quotes nothing of it."""


class Target(msgspec.Struct, frozen=True):
    """A URL that may be tried, in its one spelling; `host` is a name in small ASCII letters or a bare address."""

    url: str
    scheme: str
    host: str
    port: int

    def __repr__(self) -> str:
        return f"Target({self.scheme}, port {self.port})"  # the rest is a customer's


class Allowed(msgspec.Struct, frozen=True):
    """What `[egress] allow` exempts from the rules: hosts (at one port, or any: None), and networks."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @staticmethod
    def of(entries: Iterable[str]) -> Allowed:
        """Of `host`, `host:port`, an address, or a network in CIDR. Raises ValueError, quoting nothing."""
        hosts: set[tuple[str, int | None]] = set()
        networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            if "%" in entry:
                raise ValueError("not a host: an address without a zone")
            try:
                networks.append(ip_network(entry.strip("[]")))
            except ValueError:
                hosts.add(_host_entry(entry))
        return Allowed(frozenset(hosts), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Whether that very host is exempt, wherever its name leads."""
        return (host, None) in self.hosts or (host, port) in self.hosts

    def holds(self, address: Address) -> bool:
        """Whether the address is in an exempt network."""
        return any(each in network for each in (address, _behind(address)) for network in self.networks)

    def may_reach(self, address: Address) -> bool:
        """Whether a connection may be made to the address by its own virtue."""
        return is_public(address) or self.holds(address)


def is_public(address: Address) -> bool:
    """Whether the address is global unicast, and leads nowhere else."""
    judged = _behind(address)
    if isinstance(judged, IPv4Address):
        return not any(judged in network for network in _CLOSED_IPV4)
    if judged.scope_id is not None or judged not in _GLOBAL_UNICAST:
        return False
    interface = int(judged) & (1 << 64) - 1
    if interface >> 32 in _ISATAP:
        return False
    return not any(judged in network for network in _CLOSED_IPV6)


def read_url(text: str, allowed: Allowed) -> Target:
    """The target of a URL as it was given. Raises UrlForbidden with the rule that it breaks.

    HTTPS only, at 443 or a port from 1024 on that no other service is known for; to what is exempt also HTTP, and at
    any port.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise UrlForbidden(f"A URL has at most {URL_CHARACTERS_MAX} characters.")
    if _UNWRITABLE.search(text):
        raise UrlForbidden("A URL has no spaces, control characters or backslashes.")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise UrlForbidden("The URL is not well formed.") from None
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise UrlForbidden("It must begin with https:// and a host.")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None or "#" in text:
        raise UrlForbidden("The URL has no user, no empty port, no fragment, and nothing encoded in its host.")
    host = read_host(authority[1] or authority[2])
    port = int(authority[3]) if authority[3] else _HTTPS if parts.scheme == "https" else 80
    _check_place(parts.scheme, host, port, allowed)
    shown = f"[{host}]" if ":" in host else host
    rest = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    return Target(f"{parts.scheme}://{shown}:{port}{quote(rest, safe=_ASCII)}", parts.scheme, host, port)


def read_host(text: str) -> str:
    """A host in its one spelling: a name of ASCII letters, by IDNA where it has others, or an address as `ipaddress`
    writes it. Raises UrlForbidden for other spellings of an address (octal, hexadecimal, short, one number)."""
    host = text.lower()
    if ":" in host:
        try:
            if "%" not in host:  # a zone is of this machine's interfaces
                return str(IPv6Address(host))
        except ValueError:
            pass
        raise UrlForbidden("The host is not an address.")
    if not host.isascii() or "xn--" in host:
        try:
            host = idna.encode(host, uts46=True, std3_rules=True).decode().lower()
        except idna.IDNAError:
            raise UrlForbidden("The host is not a name.") from None
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))  # takes four decimal numbers without leading zeros, and nothing else
        except ValueError:
            raise UrlForbidden("An IPv4 address is written as four decimal numbers.") from None
    if len(host) > _HOST_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlForbidden("The host is not a name; it ends without a dot.")
    return host


def address_of(host: str) -> Address | None:
    """The address that a host of `read_host` is, None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _check_place(scheme: str, host: str, port: int, allowed: Allowed) -> None:
    if not 1 <= port <= _PORT_MAX:
        raise UrlForbidden("The URL's port is not one.")
    address = address_of(host)
    if allowed.names(host, port) or (address is not None and allowed.holds(address)):
        return
    if scheme != "https":
        raise UrlForbidden(f"It must begin with https://. {_ALLOW}")
    if (port != _HTTPS and port < _PRIVILEGED) or port in _CLOSED_PORTS:
        raise UrlForbidden("The URL's port is 443, or one from 1024 on that no other service is known for.")
    if address is not None and not is_public(address):
        raise UrlForbidden(f"Its host is not on the public internet. {_ALLOW}")
    if address is None and _is_local(host):
        raise UrlForbidden(f"Its host is not on the public internet. {_ALLOW}")


def _is_local(host: str) -> bool:
    return "." not in host or any(host.endswith(f".{name}") for name in _LOCAL_NAMES)


def _behind(address: Address) -> Address:
    """The address that packets to this one end up at, as far as it tells."""
    if isinstance(address, IPv6Address) and address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _host_entry(entry: str) -> tuple[str, int | None]:
    name, port = entry, None
    if found := _ENTRY_PORT.fullmatch(entry):
        name, port = found[1], int(found[2])
        if not 1 <= port <= _PORT_MAX:
            raise ValueError("not a port")
    try:
        return read_host(name.removeprefix("[").removesuffix("]")), port
    except UrlForbidden:
        raise ValueError("neither a host, nor host:port, nor a network") from None
