"""Which URLs and addresses may be called."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.upstream.hostile import OPEN_ADDRESSES, closed_addresses, hostile_urls
from waypost.upstream.guard import Allowed, UrlForbidden, is_public, read_host, read_url

NOBODY = Allowed()
PORT = 8443


@pytest.mark.parametrize("url", hostile_urls(PORT))
def test_a_url_that_leads_elsewhere_than_the_public_internet_is_refused(url: str) -> None:
    with pytest.raises(UrlForbidden):
        read_url(url, NOBODY)


def test_there_are_more_than_three_hundred_of_them() -> None:
    assert len(set(hostile_urls(PORT))) >= 300


@pytest.mark.parametrize("address", closed_addresses(), ids=str)
def test_an_address_that_is_not_global_unicast_is_closed(address: object) -> None:
    assert not is_public(ip_address(str(address)))


@pytest.mark.parametrize("text", OPEN_ADDRESSES)
def test_a_global_unicast_address_is_open(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://example.com", "https://example.com:443/"),
        ("HTTPS://Example.COM/Hook?a=%2F&b=x%20y", "https://example.com:443/Hook?a=%2F&b=x%20y"),
        ("https://hooks.example.org:8443/a/../b", "https://hooks.example.org:8443/a/../b"),
        ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example:443/%C3%A4?%C3%B6"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example:443/"),
        ("https://8.8.8.8/", "https://8.8.8.8:443/"),
        ("https://[2606:4700::0:1111]/", "https://[2606:4700::1111]:443/"),
        ("https://a_b.example.com?x=1", "https://a_b.example.com:443/?x=1"),
    ],
)
def test_a_url_of_the_public_internet_has_one_spelling(text: str, url: str) -> None:
    assert read_url(text, NOBODY).url == url


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("hooks.lan", "http://hooks.lan:81/"),
        ("Hooks.LAN", "https://hooks.lan/"),
        ("receiver", "http://receiver:9000/"),
        ("hooks.lan:8080", "http://hooks.lan:8080/"),
        ("127.0.0.1", "http://127.0.0.1:9/"),
        ("127.0.0.1:5432", "http://127.0.0.1:5432/"),
        ("10.0.0.0/8", "http://10.1.2.3/"),
        ("::1", "http://[::1]:80/"),
        ("[::1]:8080", "http://[0:0::1]:8080/"),
        ("fd00::/8", "https://[fd00::5]:22/"),
        ("10.0.0.0/8", "http://[64:ff9b::10.0.0.1]/"),
        ("bücher.lan", "http://xn--bcher-kva.lan/"),
    ],
)
def test_what_is_allowed_is_exempt(entry: str, url: str) -> None:
    assert read_url(url, Allowed.of([entry])).url.startswith(url[:6])
    with pytest.raises(UrlForbidden):
        read_url(url, NOBODY)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("hooks.lan", "http://other.hooks.lan/"),
        ("hooks.lan", "http://hooks.lan./"),
        ("hooks.lan:8080", "http://hooks.lan:8081/"),
        ("127.0.0.1:8080", "http://127.0.0.1:8081/"),
        ("10.0.0.0/8", "http://example.com/"),
        ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/"),
        ("127.0.0.1", "http://0x7f.1/"),
        ("127.0.0.1", "http://user@127.0.0.1/"),
        ("10.0.0.0/8", "http://10.1.2.3:0/"),
    ],
)
def test_what_is_allowed_exempts_nothing_else(entry: str, url: str) -> None:
    with pytest.raises(UrlForbidden):
        read_url(url, Allowed.of([entry]))


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.1/8", "a b", "h:0", "h:99999", "https://h", "*.lan", "h:", "0x7f.1", "::1%1"]
)
def test_an_entry_that_is_no_place_is_a_mistake(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^(neither|not)"):
        Allowed.of([entry])


@given(st.text(max_size=60))
def test_any_text_is_a_host_in_one_spelling_or_refused(text: str) -> None:
    try:
        host = read_host(text)
    except UrlForbidden:
        return
    assert host.isascii()
    assert read_host(host) == host


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_a_target_that_reads_as_itself_or_refused(text: str) -> None:
    try:
        target = read_url(f"https://{text}", NOBODY)
    except UrlForbidden:
        return
    assert read_url(target.url, NOBODY) == target


@pytest.mark.parametrize(
    "url", ["http://receiver.example.com/hook", "https://127.0.0.1/hook", "https://localhost/hook"]
)
def test_a_refusal_says_what_would_be_called(url: str) -> None:
    with pytest.raises(
        UrlForbidden, match=r"(must begin with https://|not on the public internet)\. .*\[egress\] allow"
    ):
        read_url(url, Allowed())
