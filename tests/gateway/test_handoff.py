"""What goes to the control process and what comes back: both as they were, but for what only we may say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.transport.loopback import Answer, Script, Watching, connected, read_answer, read_request, run, serving
from waypost.gateway.handoff import HandOff, is_oddly_spelled
from waypost.gateway.handoff_places import (
    IN_FLIGHT_MAX,
    KEPT_FOR_CALLBACKS,
    LONG_MAX,
    LONG_OF_OWNER_MAX,
    ORGANISATION_MAX,
    Kind,
    Place,
    Places,
)
from waypost.kit import ids
from waypost.kit.errors import Refusal
from waypost.transport.http1_server import Exchange

REQUEST_ID = bytes(16)
SHOWN_ID = ids.text("req", REQUEST_ID)


def refuse(exchange: Exchange, refusal: Refusal, request_id: bytes) -> None:
    assert request_id == REQUEST_ID
    line = b"" if refusal.retry_after_s is None else b"retry-after: %d\r\n" % refusal.retry_after_s
    exchange.respond(refusal.code.status, b"x-refused: yes\r\n" + line, refusal.code.name.encode())


@asynccontextmanager
async def handing_off(path: Path) -> AsyncIterator[tuple[int, HandOff]]:
    """A server that hands everything to the socket, as of the organisation that `x-org` says; its port."""
    bugs: list[BaseException] = []
    handoff = HandOff(str(path), is_https=True, client_of=lambda _: "192.0.2.7", refuse=refuse, on_bug=bugs.append)

    def relay(exchange: Exchange) -> None:
        handoff.relay(exchange, REQUEST_ID, org_id=exchange.headers.get(b"x-org", b""))

    async with serving(relay) as server:
        yield server.port, handoff
    assert handoff.in_flight == 0
    await handoff.close()
    assert bugs == []


@asynccontextmanager
async def controlling(path: Path, script: Script) -> AsyncIterator[None]:
    """A control process whose every connection runs a script."""
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def play() -> None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(reader, writer)
            writer.close()

        running.add(asyncio.ensure_future(play()))

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def ask(port: int, request: bytes) -> Answer:
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await read_answer(reader, is_head_request=request.startswith(b"HEAD"))


def show(exchange: Exchange) -> None:
    headers = {name.decode(): value.decode() for name, value in exchange.headers.items()}
    seen = [exchange.method, exchange.path, exchange.query, headers, exchange.body.unwrap().decode()]
    lines = b"set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nx-thing: 7\r\nconnection: x-private\r\nx-private: 1\r\n"
    exchange.respond(201, lines + b"x-request-id: theirs\r\ncontent-type: text/plain\r\n", json.dumps(seen).encode())


def test_a_request_arrives_as_it_was_but_for_who_the_caller_is_and_what_held_for_its_connection(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "c.sock"
        async with serving(show, unix_path=str(path)), handing_off(path) as (port, _):
            answer = await ask(
                port,
                b"POST /console/a%20b?c=d&e HTTP/1.1\r\nHost: ai.example.org\r\nCookie: s=1\r\n"
                b"Authorization: Bearer x\r\nX-Real-IP: 6.6.6.6\r\n"
                b"X-Forwarded-For: 6.6.6.6\r\nX-FORWARDED-FOR: 7.7.7.7\r\nForwarded: for=6.6.6.6\r\n"
                b"X-Forwarded-Host: evil\r\nX-Forwarded-Proto: http\r\nX-Request-Id: mine\r\nTE: trailers\r\n"
                b"Connection: keep-alive, x-secret-hop\r\nX-Secret-Hop: 1\r\nKeep-Alive: 5\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )
            method, asked, query, headers, body = json.loads(answer.body)
            assert (method, asked, query, body) == ("POST", "/console/a%20b", "c=d&e", "abcde")
            assert headers == {
                "host": "ai.example.org",
                "cookie": "s=1",
                "authorization": "Bearer x",
                "x-forwarded-for": "192.0.2.7",
                "x-forwarded-proto": "https",
                "x-request-id": SHOWN_ID,
                "content-length": "5",
            }
            assert answer.status == 201

    run(main())


def test_an_answer_comes_back_as_it_was_with_our_id_and_every_cookie(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "c.sock"
        async with serving(show, unix_path=str(path)), handing_off(path) as (port, _), connected(port) as streams:
            streams[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = (await streams[0].readuntil(b"\r\n\r\n")).decode().lower()
            lines = head.splitlines()
            assert lines.count("set-cookie: a=1; path=/") == 1
            assert lines.count("set-cookie: b=2") == 1
            assert f"x-request-id: {SHOWN_ID}" in lines
            assert "x-thing: 7" in lines
            assert "private" not in head
            assert "theirs" not in head
            assert head.count("date:") == 1

    run(main())


def test_a_caller_of_http_1_0_needs_no_host(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "c.sock"
        async with serving(show, unix_path=str(path)), handing_off(path) as (port, _):
            answer = await ask(port, b"GET / HTTP/1.0\r\n\r\n")
            assert (answer.status, json.loads(answer.body)[3]["host"]) == (201, "localhost")

    run(main())


def test_answers_without_a_body_stay_so(tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        status = {"/none": 204, "/same": 304}.get(exchange.path, 200)
        exchange.respond(status, b"etag: x\r\n", b"" if status != 200 else b"body")

    async def main() -> None:
        path = tmp_path / "c.sock"
        async with serving(answer, unix_path=str(path)), handing_off(path) as (port, _), connected(port) as streams:
            for method, target, status in (("GET", "/none", 204), ("GET", "/same", 304), ("HEAD", "/", 200)):
                streams[1].write(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                told = await read_answer(streams[0], is_head_request=method == "HEAD")
                assert (told.status, told.body, told.headers["etag"]) == (status, b"", "x")
            streams[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await read_answer(streams[0])).body == b"body"

    run(main())


def test_a_stream_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    async def main() -> None:
        held: list[Exchange] = []

        def begin(exchange: Exchange) -> None:
            exchange.begin(200, b"content-type: text/event-stream\r\n")
            exchange.write(b"first")
            held.append(exchange)

        path = tmp_path / "c.sock"
        async with serving(begin, unix_path=str(path)), handing_off(path) as (port, _), connected(port) as streams:
            streams[1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200" in await streams[0].readuntil(b"\r\n\r\n")
            assert await streams[0].readexactly(len(b"5\r\nfirst\r\n")) == b"5\r\nfirst\r\n"
            held[0].end(b"last")
            assert await streams[0].readuntil(b"0\r\n\r\n") == b"4\r\nlast\r\n0\r\n\r\n"

    run(main())


def test_a_caller_who_does_not_read_makes_the_control_process_wait(tmp_path: Path) -> None:
    async def main() -> None:
        sent = 0
        part = b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))

        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(1024):
                writer.write(part)
                await writer.drain()
                sent += 1
            writer.write(b"0\r\n\r\n")
            await writer.drain()

        path = tmp_path / "c.sock"
        async with controlling(path, pour), handing_off(path) as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < 1000
            received = await reader.readuntil(b"\r\n\r\n")
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received = received[-16:] + await reader.read(1 << 20)
            assert sent == 1024
            writer.close()

    run(main())


def failing(answer: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    return script


def test_without_a_whole_answer_there_is_an_error_or_a_break_and_never_a_whole_one(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "c.sock"
        async with handing_off(path) as (port, _):
            assert (await ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 503  # nobody there
            async with controlling(path, failing(b"")):
                answer = await ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (answer.status, answer.body) == (503, b"SERVICE_UNAVAILABLE")
            path.unlink(missing_ok=True)
            async with controlling(path, failing(b"nonsense\r\n\r\n")):
                assert (await ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 503
            for cut in (
                b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
                b"HTTP/1.1 200 OK\r\n\r\nabc",
            ):
                path.unlink(missing_ok=True)
                async with controlling(path, failing(cut)), connected(port) as (reader, writer):
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert b" 200 " in await reader.readline()
                    with suppress(ConnectionResetError):
                        assert not (await reader.read()).endswith(b"0\r\n\r\n")

    run(main())


def test_a_caller_who_leaves_ends_the_call(tmp_path: Path) -> None:
    async def main() -> None:
        arrived, left = asyncio.Event(), asyncio.Event()

        def hold(exchange: Exchange) -> None:
            exchange.watcher = Watching(leave=left.set)
            arrived.set()

        path = tmp_path / "c.sock"
        async with serving(hold, unix_path=str(path)), handing_off(path) as (port, _):
            async with connected(port) as (_, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await arrived.wait()
            await left.wait()

    run(main())


def test_a_get_on_a_connection_that_had_just_closed_is_sent_once_more_and_a_post_is_not(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        seen.append(request.split(b" ")[0])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await read_request(reader)  # takes the next one, and goes without a word

    async def main() -> None:
        path = tmp_path / "c.sock"
        async with controlling(path, answer_once), handing_off(path) as (port, _):
            get, post = (
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
            )
            assert (await ask(port, get)).status == 200
            assert (await ask(port, get)).status == 200
            assert (await ask(port, post)).status == 503
            assert seen == [b"GET", b"GET"]

    run(main())


def test_too_many_at_once_are_refused_and_the_rest_are_answered(tmp_path: Path) -> None:
    async def main() -> None:
        held: list[Exchange] = []
        path = tmp_path / "c.sock"
        keep: Callable[[Exchange], None] = held.append
        async with serving(keep, unix_path=str(path)), handing_off(path) as (port, _):
            most = IN_FLIGHT_MAX - KEPT_FOR_CALLBACKS
            asking = [asyncio.ensure_future(ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")) for _ in range(most)]
            while len(held) < most:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert (await ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 503
            told = b"POST /v1/callbacks/fal/x/1/t HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            asking.append(asyncio.ensure_future(ask(port, told)))
            while len(held) == most:  # noqa: ASYNC110
                await asyncio.sleep(0)
            for exchange in held:
                exchange.respond(200, b"", b"")
            assert {(await each).status for each in asking} == {200}

    run(main())


def asked_by(org: str, target: str = "/v1/executions/exec_1/events", lines: str = "", method: str = "GET") -> bytes:
    org_line = f"X-Org: {org}\r\n" if org else ""
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\n{org_line}{lines}\r\n".encode()


def test_long_answers_have_a_share_and_each_organisation_a_share_of_it(tmp_path: Path) -> None:
    waiting = asked_by("one", "/v1/executions", "Prefer: respond-async, wait=60\r\nContent-Length: 0\r\n", "POST")

    async def main() -> None:
        held: list[Exchange] = []
        asking: list[asyncio.Task[Answer]] = []
        path = tmp_path / "c.sock"
        keep: Callable[[Exchange], None] = held.append
        async with serving(keep, unix_path=str(path)), handing_off(path) as (port, _):

            async def hold(request: bytes, times: int) -> None:
                asking.extend(asyncio.ensure_future(ask(port, request)) for _ in range(times))
                async with asyncio.timeout(20):
                    while len(held) < len(asking):  # noqa: ASYNC110
                        await asyncio.sleep(0)

            await hold(asked_by("one"), LONG_OF_OWNER_MAX - 1)
            await hold(waiting, 1)
            for more in (asked_by("one"), waiting, asked_by("one", "/v1/files/file_1/content")):
                refused = await ask(port, more)
                assert (refused.status, refused.body) == (429, b"RATE_LIMITED")
                assert int(refused.headers["retry-after"]) > 0
            await hold(asked_by("one", "/v1/balance"), ORGANISATION_MAX - LONG_OF_OWNER_MAX)
            assert (await ask(port, asked_by("one", "/v1/balance"))).status == 429
            # Everybody else is served, until all have the most that long answers may have of it.
            for org in ("two", "three", "")[: LONG_MAX // LONG_OF_OWNER_MAX - 1]:
                await hold(asked_by(org), LONG_OF_OWNER_MAX)
            assert (await ask(port, asked_by(""))).status == 429  # of one address, without a key
            full = await ask(port, asked_by("four"))
            assert (full.status, full.body) == (503, b"SERVICE_UNAVAILABLE")
            await hold(asked_by("four", "/v1/balance"), 1)
            for exchange in held:
                exchange.respond(200, b"", b"")
            assert {(await each).status for each in asking} == {200}
            asking.clear()
            held.clear()
            await hold(asked_by("one"), LONG_OF_OWNER_MAX)  # the places are free again
            for exchange in held:
                exchange.respond(200, b"", b"")
            assert {(await each).status for each in asking} == {200}

    run(main())


def test_a_path_of_the_api_has_one_spelling() -> None:
    for odd in ("/v1/%65xecutions", "/%761/executions", "/v1/video/%67enerations", "/v1%2Fexecutions", "/v1/x%00"):
        assert is_oddly_spelled(odd), odd
    for plain in ("/v1/executions", "/console/a%20b", "/", "/%"):
        assert not is_oddly_spelled(plain), plain


def test_an_answer_whose_length_is_known_keeps_it_and_its_connection(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "c.sock"
        async with serving(show, unix_path=str(path)), handing_off(path) as (port, _), connected(port) as streams:
            reader, writer = streams
            for method in (b"GET", b"HEAD", b"GET"):
                writer.write(method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")
                answer = await read_answer(reader, is_head_request=method == b"HEAD")
                assert "transfer-encoding" not in answer.headers
                length = int(answer.headers["content-length"])
                assert length > 0
                assert len(answer.body) == (0 if method == b"HEAD" else length)

    run(main())


def test_an_answer_that_breaks_off_before_its_length_ends_the_callers_connection(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        await writer.drain()

    async def main() -> None:
        path = tmp_path / "c.sock"
        async with controlling(path, script), handing_off(path) as (port, _), connected(port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: 9" in head
            rest = b""
            with suppress(ConnectionError):
                rest = await reader.read()
            assert b"abc".startswith(rest)

    run(main())


def test_who_has_used_up_a_share_is_told_of_what_and_how_much() -> None:
    places, place = Places(), Place(Kind.LONG, b"org", has_key=True)
    for _ in range(LONG_OF_OWNER_MAX):
        places.take(place)
    with pytest.raises(Refusal) as refused:
        places.take(place)
    assert refused.value.message.startswith(f"{LONG_OF_OWNER_MAX} requests that wait for answers, events or contents")
