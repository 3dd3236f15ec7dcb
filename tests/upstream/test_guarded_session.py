"""Connections are made to where they may go, and to nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import ip_address

import aiohttp
import pytest
import trustme

from tests.upstream.hostile import closed_addresses, hostile_urls
from tests.upstream.traps import connections, trap
from waypost.transport.tls import client_context
from waypost.upstream.guard import Address, Allowed
from waypost.upstream.guarded_session import Bounds, CallFailed, Failure, GuardedSession, Lookup

QUICK = Bounds(connect_s=2, idle_s=2, total_s=5, answer_bytes=1024)
AUTHORITY = trustme.CA()
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def names(*answers: Sequence[str]) -> Lookup:
    """A resolver that gives one answer after the other, and the last one ever after."""
    left = list(answers)

    async def look_up(_host: str, _port: int) -> Sequence[Address]:
        return [ip_address(each) for each in (left.pop(0) if len(left) > 1 else left[0])]

    return look_up


@contextlib.asynccontextmanager
async def session(*allow: str, lookup: Lookup | None = None) -> AsyncIterator[GuardedSession]:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    made = GuardedSession(Allowed.of(allow), context, lookup=lookup)
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def served(serve: Serve, *, certified: str = "") -> AsyncIterator[int]:
    """A server on 127.0.0.1; its port. With TLS for the name `certified`."""
    context = None
    if certified:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        AUTHORITY.issue_cert(certified).configure_cert(context)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def says(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    return serve


OK = says(b"HTTP/1.1 200 OK\r\nX-One: 1\r\nX-One: 2\r\ncontent-length: 4\r\n\r\ngood")


async def failure_of(made: GuardedSession, url: str, bounds: Bounds = QUICK) -> Failure:
    with pytest.raises(CallFailed) as caught:
        await made.send("POST", url, bounds=bounds, body=b"{}")
    return caught.value.failure


async def test_no_hostile_url_is_connected_to() -> None:
    async with trap() as caught, session(lookup=names(["127.0.0.1"])) as made:
        urls = hostile_urls(caught.port)
        with connections() as record:
            failures = [await failure_of(made, url) for url in urls]

    assert len(urls) >= 300
    assert set(failures) == {Failure.FORBIDDEN}
    assert (record, caught.visits) == ([], [])


async def test_no_name_that_leads_to_a_closed_address_is_connected_to() -> None:
    async with trap() as caught:
        with connections() as record:
            for address in closed_addresses():
                async with session(lookup=names([str(address)])) as made:
                    url = f"https://hooks.example.com:{caught.port}/"
                    assert await failure_of(made, url) is Failure.FORBIDDEN

    assert (record, caught.visits) == ([], [])


async def test_a_name_that_leads_home_the_second_time_is_not_connected_to() -> None:
    async with trap() as caught, session("127.0.0.2/32", lookup=names(["127.0.0.2"], ["127.0.0.1"])) as made:
        url = f"https://rebinding.example.com:{caught.port}/"
        assert await failure_of(made, url) is Failure.TLS  # it got as far as the open address
        with connections() as record:
            failures = [await failure_of(made, url) for _ in range(3)]

    assert (failures, record) == ([Failure.FORBIDDEN] * 3, [])
    assert caught.visits == ["127.0.0.2"]


async def test_of_several_addresses_only_the_open_ones_are_tried() -> None:
    mixed = names(["127.0.0.1", "::1", "10.0.0.1", "127.0.0.3", "169.254.169.254"])
    async with trap() as caught, session("127.0.0.3/32", lookup=mixed) as made:
        with connections() as record:
            await failure_of(made, f"https://mixed.example.com:{caught.port}/")

    assert [each[0] for each in record if isinstance(each, tuple)] == ["127.0.0.3"]
    assert caught.visits == []


async def test_the_gate_stands_at_the_socket_whatever_was_looked_up() -> None:
    """Even an address that nobody judged before gets no socket."""
    async with trap() as caught, session(lookup=names(["127.0.0.1"])) as made:
        with connections() as record:
            for host in ("127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1"):
                with pytest.raises(aiohttp.ClientConnectorError):
                    await made._open_session().get(f"http://{f'[{host}]' if ':' in host else host}:{caught.port}/")

    assert (record, caught.visits) == ([], [])


async def test_a_name_that_is_exempt_vouches_for_no_other_name() -> None:
    async with trap() as caught, session("hooks.lan", lookup=names(["127.0.0.1"])) as made:
        answer = await made.send("POST", f"http://hooks.lan:{caught.port}/", bounds=QUICK)
        others = (f"https://other.example.com:{caught.port}/", f"https://127.0.0.1:{caught.port}/")
        assert [await failure_of(made, url) for url in others] == [Failure.FORBIDDEN] * 2

    assert (answer.status, len(caught.visits)) == (200, 1)


@pytest.mark.parametrize(
    ("allow", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:{port}", "127.0.0.1"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("hooks.lan", "hooks.lan"),
        ("hooks.lan:{port}", "hooks.lan"),
        ("receiver", "receiver"),
    ],
)
async def test_each_kind_of_exemption_works(allow: str, host: str) -> None:
    async with served(OK) as port, session(allow.format(port=port), lookup=names(["127.0.0.1"])) as made:
        answer = await made.send("POST", f"http://{host}:{port}/hook", bounds=QUICK, body=b"{}")

    assert (answer.status, answer.headers["x-one"], answer.body) == (200, "1", b"good")


async def test_a_name_in_an_exempt_network_is_reached_by_tls_alone() -> None:
    async with (
        served(OK, certified="hooks.example.com") as port,
        session("127.0.0.0/8", lookup=names(["127.0.0.1"])) as made,
    ):
        answer = await made.send("GET", f"https://hooks.example.com:{port}/", bounds=QUICK)
        assert await failure_of(made, f"http://hooks.example.com:{port}/") is Failure.FORBIDDEN

    assert answer.body == b"good"


async def test_a_certificate_for_another_name_or_of_an_unknown_authority_is_refused() -> None:
    lookup = names(["127.0.0.1"])
    async with served(OK, certified="other.example.com") as port, session("127.0.0.0/8", lookup=lookup) as made:
        assert await failure_of(made, f"https://hooks.example.com:{port}/") is Failure.TLS
        stranger = GuardedSession(Allowed.of(["127.0.0.0/8"]), client_context(), lookup=lookup)
        assert await failure_of(stranger, f"https://other.example.com:{port}/") is Failure.TLS
        await stranger.close()


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with trap() as caught:
        away = f"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{caught.port}/\r\ncontent-length: 0\r\n\r\n"
        async with served(says(away.encode())) as port, session(f"127.0.0.1:{port}") as made:
            answer = await made.send("POST", f"http://127.0.0.1:{port}/", bounds=QUICK)

    assert (answer.status, caught.visits) == (302, [])


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trap() as caught:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{caught.port}")
        async with served(OK) as port, session(f"127.0.0.1:{port}") as made:
            assert (await made.send("POST", f"http://127.0.0.1:{port}/", bounds=QUICK)).body == b"good"

    assert caught.visits == []


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n", Failure.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, Failure.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Failure.BROKEN),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 20_000 + b"\r\n\r\n", Failure.BROKEN),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Failure.BROKEN),
        (b"", Failure.BROKEN),
    ],
)
async def test_an_answer_that_cannot_be_used_is_a_failure_of_its_kind(answer: bytes, failure: Failure) -> None:
    async with served(says(answer)) as port, session("127.0.0.0/8") as made:
        assert await failure_of(made, f"http://127.0.0.1:{port}/") is failure


async def test_an_answer_that_does_not_come_or_does_not_end_is_a_timeout() -> None:
    ended = asyncio.Event()

    async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while not ended.is_set():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    async def is_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    bounds = Bounds(connect_s=1, idle_s=1, total_s=0.3)
    for serve in (drips, is_silent):
        ended.clear()
        async with served(serve) as port, session("127.0.0.0/8") as made:
            assert await failure_of(made, f"http://127.0.0.1:{port}/", bounds) is Failure.TIMEOUT
            ended.set()


async def test_nobody_there_and_no_such_name_are_told_apart() -> None:
    async def unknown(_host: str, _port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        async with session("127.0.0.0/8", lookup=unknown) as made:
            assert await failure_of(made, f"http://127.0.0.1:{port}/") is Failure.REFUSED
            assert await failure_of(made, "https://nothing.example.com/") is Failure.UNKNOWN_HOST


async def test_other_rules_are_in_force_for_the_next_call() -> None:
    async with served(OK) as port, session("127.0.0.0/8") as made:
        url = f"http://127.0.0.1:{port}/"
        assert (await made.send("POST", url, bounds=QUICK)).status == 200
        made.use(Allowed(), client_context())
        assert await failure_of(made, url) is Failure.FORBIDDEN


async def test_a_url_is_asked_for_as_it_was_written() -> None:
    """A signature may cover it: nothing is decoded, encoded again, or put in order."""
    heads: list[bytes] = []

    async def notes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    rest = "/a%2Fb/../c;d=1//e?z=%7E~&a=b+c%20&a=&X-Sig=%3D%3d'(!)"
    async with (
        served(notes, certified="hooks.example.com") as port,
        session("127.0.0.0/8", lookup=names(["127.0.0.1"])) as made,
    ):
        await made.send("GET", f"https://hooks.example.com:{port}{rest}", bounds=QUICK)

    lines = heads[0].decode().split("\r\n")
    assert lines[0] == f"GET {rest} HTTP/1.1"
    assert {line.lower() for line in lines if line.lower().startswith("host:")} == {f"host: hooks.example.com:{port}"}
    assert not any(line.lower().startswith(("user-agent:", "cookie:", "accept:")) for line in lines)
