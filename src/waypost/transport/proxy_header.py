"""The first bytes of a connection that a proxy hands on: the PROXY protocol, version 2, which tells who the caller is.

Format: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt §2.2. Sans-io. No HTTP request begins as the
signature does, so a proxy may also send none.
"""

from __future__ import annotations

import ipaddress

import msgspec

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16
_LENGTH_MAX = 2048  # addresses take 36 bytes at most; the rest is for extensions, of which we read none
_VERSION = 2
_LOCAL, _PROXY = 0, 1
_ADDRESS_BYTES = {1: 4, 2: 16}  # IPv4, IPv6
_PORTS_BYTES = 4
_STREAM = 1


class ProxyHeaderInvalid(Exception):
    """The bytes begin as a PROXY header and are none."""


class ProxyHeader(msgspec.Struct, frozen=True, gc=False):
    """`host` is the caller's address, "" when the proxy speaks for itself or over something that has no address."""

    host: str
    length: int  # bytes that the header takes; HTTP or more follows


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the start of `data`; `length` 0 when there is none, None when more bytes are needed to tell.

    Raises ProxyHeaderInvalid."""
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        return ProxyHeader("", 0)
    if len(data) < _FIXED_BYTES:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family, protocol = data[13] >> 4, data[13] & 15
    length = int.from_bytes(data[14:16], "big")
    if version != _VERSION or command not in (_LOCAL, _PROXY) or length > _LENGTH_MAX:
        raise ProxyHeaderInvalid
    if len(data) < _FIXED_BYTES + length:
        return None
    size = _ADDRESS_BYTES.get(family)
    if command == _LOCAL or size is None:
        return ProxyHeader("", _FIXED_BYTES + length)
    if protocol != _STREAM or length < 2 * size + _PORTS_BYTES:
        raise ProxyHeaderInvalid
    host = ipaddress.ip_address(data[_FIXED_BYTES : _FIXED_BYTES + size])
    return ProxyHeader(str(host), _FIXED_BYTES + length)
