"""Whose request it is behind proxies."""

from __future__ import annotations

import pytest

from waypost.policy.address import TrustedProxies, site_of

OURS = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", b"", "203.0.113.9"),
        ("203.0.113.9", b"198.51.100.1", "203.0.113.9"),  # a stranger vouches for nobody
        ("10.1.1.1", b"198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", b"6.6.6.6, 198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1", b"198.51.100.1, 10.2.2.2,192.0.2.7", "198.51.100.1"),
        ("10.1.1.1", b"", "10.1.1.1"),
        ("10.1.1.1", b"10.3.3.3, 10.2.2.2", "10.3.3.3"),  # a caller inside
        ("10.1.1.1", b"198.51.100.1, unknown", "10.1.1.1"),
        ("10.1.1.1", b"198.51.100.1, <script>, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", b"198.51.100.1:4711", "198.51.100.1"),
        ("10.1.1.1", b"[2001:db8:2::1]:443", "2001:db8:2::1"),
        ("10.1.1.1", b"2001:DB8:2::1", "2001:db8:2::1"),
        ("2001:db8:1::5", b"198.51.100.1", "198.51.100.1"),
        ("::ffff:10.1.1.1", b"::ffff:198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", b"1.2.3.4, " + b"10.0.0.1, " * 40 + b"10.0.0.1", "10.0.0.1"),
        ("10.1.1.1", b"\xff\xfe", "10.1.1.1"),
        ("", b"198.51.100.1", ""),
    ],
)
def test_the_rightmost_stranger_is_the_caller(peer: str, forwarded_for: bytes, client: str) -> None:
    assert OURS.client_of(peer, forwarded_for) == client


def test_without_proxies_nobody_is_believed() -> None:
    assert TrustedProxies().client_of("10.1.1.1", b"198.51.100.1") == "10.1.1.1"
    assert "10.1.1.1" not in TrustedProxies()


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="network"):
        TrustedProxies(["10.0.0.0/33"])


def test_an_ipv6_caller_is_the_network_that_he_was_given() -> None:
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff:2") == "2001:db8::/64"
    assert site_of("198.51.100.1") == "198.51.100.1"
    assert site_of("") == ""
