"""The PROXY protocol, version 2: who the caller is, as a trusted proxy tells it."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from tests.transport.loopback import connected, read_answer, run, send_in_parts, serving
from waypost.transport.http1_server import Exchange, ServerLimits
from waypost.transport.proxy_header import SIGNATURE, ProxyHeader, ProxyHeaderInvalid, read_proxy_header

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def header(
    host: str = "192.0.2.7", *, command: int = 0x21, family: int | None = None, more: bytes = b"", length: int = -1
) -> bytes:
    source = ipaddress.ip_address(host)
    target = ipaddress.ip_address("203.0.113.1" if source.version == 4 else "2001:db8::1")
    body = source.packed + target.packed + struct.pack("!HH", 40000, 443) + more
    kind = (0x11 if source.version == 4 else 0x21) if family is None else family
    return SIGNATURE + bytes((command, kind)) + struct.pack("!H", len(body) if length < 0 else length) + body


TOLD = {
    "IPv4": (header(), "192.0.2.7"),
    "IPv6": (header("2001:db8::7"), "2001:db8::7"),
    "with extensions": (header(more=b"\x04\x00\x03abc"), "192.0.2.7"),
    "of the proxy itself": (header(command=0x20), ""),
    "of an unknown family": (header(family=0x00), ""),
    "of a Unix socket": (header(family=0x31), ""),
}
REFUSED = {
    "another version": header(command=0x11),
    "another command": header(command=0x2F),
    "a datagram": header(family=0x12),
    "an address that does not fit": header(length=11),
    "a length over the bound": header(length=0xFFFF),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_header_is_read_to_its_end_in_any_cut(name: str) -> None:
    data, host = TOLD[name]

    assert read_proxy_header(data + GET) == ProxyHeader(host, len(data))
    assert all(read_proxy_header(data[:cut]) is None for cut in range(1, len(data)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_begins_as_a_header_is_refused(name: str) -> None:
    with pytest.raises(ProxyHeaderInvalid):
        read_proxy_header(REFUSED[name])


def test_no_request_is_taken_for_a_header() -> None:
    for data in (GET, b"\r\n" + GET, b"\r\n\r\n" + GET, b"\x16\x03\x01"):
        assert read_proxy_header(data) == ProxyHeader("", 0)


def say_host(exchange: Exchange) -> None:
    exchange.respond(200, b"", exchange.client_host.encode())


def test_a_trusted_proxy_tells_who_the_caller_is_and_nobody_else_can() -> None:
    async def ask(port: int, parts: list[bytes]) -> tuple[int, bytes]:
        async with connected(port) as (reader, writer):
            await send_in_parts(writer, parts)
            answer = await read_answer(reader)
            return answer.status, answer.body

    async def main() -> None:
        async with serving(say_host) as server:
            assert (await ask(server.port, [header() + GET]))[0] == 400
            server.use(say_host, ServerLimits(), lambda host: host == "127.0.0.1")
            told = header()
            for cut in range(1, len(told) + 3):
                assert await ask(server.port, [(told + GET)[:cut], (told + GET)[cut:]]) == (200, b"192.0.2.7")
            assert await ask(server.port, [GET]) == (200, b"127.0.0.1")  # a proxy may tell nothing
            assert await ask(server.port, [header(command=0x20) + GET]) == (200, b"127.0.0.1")
            for name in REFUSED:
                assert (await ask(server.port, [REFUSED[name] + GET]))[0] == 400

    run(main())


def test_the_address_holds_for_every_request_of_the_connection() -> None:
    async def main() -> None:
        async with serving(say_host) as server:
            server.use(say_host, ServerLimits(), lambda _: True)
            async with connected(server.port) as (reader, writer):
                writer.write(header("2001:db8::7") + GET + GET)
                assert [(await read_answer(reader)).body for _ in range(2)] == [b"2001:db8::7"] * 2
                writer.write(header() + GET)  # in the middle it is no header
                assert (await read_answer(reader)).status == 400

    run(main())
