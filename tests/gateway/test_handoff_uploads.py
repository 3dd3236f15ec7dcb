"""Files on their way to the control process: as they come, as both sides keep up, and never held."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.gateway.test_handoff import REQUEST_ID, SHOWN_ID, ask, refuse
from tests.transport.loopback import connected, read_answer, run, serving
from tests.transport.test_uploads import MIB, Reading, Server, _rest, chunked, shown, until
from waypost.gateway.handoff import HandOff, streamed_bytes_max
from waypost.gateway.handoff_places import UPLOADS_MAX, UPLOADS_OF_OWNER_MAX, Kind, Place
from waypost.kit.errors import ErrorCode
from waypost.transport.http1_server import Http1Server, ServerLimits

PUT = b"PUT /v1/files/file_0192f0c4-0000-7000-8000-000000000000/content?signature=abc HTTP/1.1\r\nHost: a\r\n"


class Both:
    """A caller's port before a control process; `control` sees what arrives there."""

    def __init__(self, path: Path, limits: ServerLimits | None = None) -> None:
        self.control = Server()
        self.path = path
        self.bugs: list[BaseException] = []
        self.limits = limits

    async def __aenter__(self) -> Both:
        self.handoff = HandOff(
            str(self.path), is_https=True, client_of=lambda _: "192.0.2.7", refuse=refuse, on_bug=self.bugs.append
        )
        self._control = serving(self.control, unix_path=str(self.path), streams=streamed_bytes_max)
        await self._control.__aenter__()
        self._front = serving(
            lambda exchange: self.handoff.relay(exchange, REQUEST_ID),
            self.limits,
            on_bug=self.bugs.append,
            streams=streamed_bytes_max,
        )
        self.front: Http1Server = await self._front.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._front.__aexit__(None, None, None)
        assert (self.handoff.in_flight, self.handoff.places.taken_by(Kind.UPLOAD)) == (0, 0)
        await self.handoff.close()
        await self._control.__aexit__(None, None, None)
        assert self.bugs == []


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_file_arrives_as_it_was_sent(is_chunked: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both, connected(both.front.port) as (reader, writer):
            body = bytes(range(256)) * 4_096
            for _ in range(2):
                if is_chunked:
                    writer.write(PUT + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:7], body[7:]))
                else:
                    writer.write(PUT + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                answer = await read_answer(reader)
                assert (answer.status, answer.body) == (200, shown(body))
                assert answer.headers["x-request-id"] == SHOWN_ID
            seen = both.control.seen[-1].exchange
            assert seen.query == "signature=abc"
            assert (seen.headers[b"x-forwarded-for"], seen.headers[b"x-forwarded-proto"]) == (b"192.0.2.7", b"https")
            assert (b"transfer-encoding" in seen.headers) is is_chunked
            assert (b"content-length" in seen.headers) is not is_chunked

    run(main())


def test_a_caller_waits_while_the_control_process_takes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both, connected(both.front.port) as (reader, writer):
            size, held = 40 * MIB, asyncio.Event()

            def stop_at_once(reading: Reading) -> None:
                reading.incoming.read(reading)
                reading.incoming.pause()
                held.set()

            both.control._begin = stop_at_once
            writer.write(PUT + b"Content-Length: %d\r\n\r\n" % size)

            async def send() -> None:
                for _ in range(size // MIB):
                    writer.write(bytes(MIB))
                    await writer.drain()

            sending = asyncio.ensure_future(send())
            await held.wait()
            await asyncio.sleep(0.5)
            assert not sending.done()
            assert both.front.buffered_bytes == 0
            both.control.seen[0].incoming.resume()
            assert (await read_answer(reader)).body == shown(bytes(size))
            await sending

    run(main())


def test_whoever_waits_to_be_asked_is_asked_by_the_control_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both:
            head = PUT + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            async with connected(both.front.port) as (reader, writer):
                writer.write(head)
                assert (await read_answer(reader)).status == 100
                writer.write(b"abcde")
                assert (await read_answer(reader)).body == shown(b"abcde")

            both.control._begin = lambda reading: reading.exchange.respond(413, b"", b"too large")
            async with connected(both.front.port) as (reader, writer):
                writer.write(head)
                answer = await read_answer(reader)
                assert (answer.status, answer.body) == (413, b"too large")

            both.control._begin = lambda _: None  # says nothing either way
            async with connected(both.front.port) as (reader, writer):
                writer.write(head)
                assert (await read_answer(reader)).status == 100

    run(main())


def test_without_a_control_process_nobody_is_asked_to_send(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both:
            both.handoff._pool._origin = type(both.handoff._pool._origin)(unix_path=str(tmp_path / "nobody.sock"))
            async with connected(both.front.port) as (reader, writer):
                writer.write(PUT + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
                answer = await read_answer(reader)
                assert (answer.status, answer.body) == (503, b"SERVICE_UNAVAILABLE")
                assert answer.headers["connection"] == "close"
                assert await reader.read() == b""

    run(main())


def test_a_control_process_that_refuses_early_is_heard_and_one_that_dies_is_503(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both:
            both.control._begin = lambda reading: reading.exchange.respond(413, b"", b"too large")
            async with connected(both.front.port) as (reader, writer):
                writer.write(PUT + b"Content-Length: 5000\r\n\r\nabc")
                answer = await read_answer(reader)
                assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"too large", "close")
                assert await _rest(reader) == b""

            def die(reading: Reading) -> None:
                reading.incoming.read(reading)
                asyncio.get_running_loop().call_later(0.1, reading.exchange.abort)

            both.control._begin = die
            async with connected(both.front.port) as (reader, writer):
                writer.write(PUT + b"Content-Length: 5000\r\n\r\nabc")
                answer = await read_answer(reader)
                assert (answer.status, answer.headers["connection"]) == (503, "close")

    run(main())


def test_a_body_that_fails_is_answered_here_and_the_control_process_sees_it_end(tmp_path: Path) -> None:
    async def main() -> None:
        limits = ServerLimits(body_grace_s=0.3, body_bytes_per_s=1_000_000)
        async with Both(tmp_path / "c.sock", limits) as both:
            head = PUT + b"Transfer-Encoding: chunked\r\n\r\n"
            for rest, code in [
                (b"3\r\nabcX", ErrorCode.INPUT_VALIDATION_ERROR),
                (b"3\r\nabc\r\n", ErrorCode.REQUEST_TIMEOUT),
            ]:
                both.control.seen.clear()
                async with connected(both.front.port) as (reader, writer):
                    writer.write(head)
                    await until(lambda: bool(both.control.seen))
                    writer.write(rest)
                    answer = await read_answer(reader)
                    assert (answer.status, answer.body) == (code.status, code.name.encode())
                    await until(lambda: both.control.seen[-1].has_left)

    run(main())


def test_a_caller_who_hangs_up_ends_the_upload(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both:
            async with connected(both.front.port) as (_, writer):
                writer.write(PUT + b"Content-Length: 5000\r\n\r\nabc")
                await until(lambda: bool(both.control.seen) and both.control.seen[0].arrived == 3)
                assert both.handoff.places.taken_by(Kind.UPLOAD) == 1
            await until(lambda: both.control.seen[0].has_left)
            assert both.handoff.places.taken_by(Kind.UPLOAD) == 0

    run(main())


def test_so_many_uploads_at_a_time_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with Both(tmp_path / "c.sock") as both:
            taken: list[Place] = []
            for owners, status in (((b"192.0.2.7",), 429), ((b"a", b"b"), 503)):
                for owner in owners:
                    taken += [Place(Kind.UPLOAD, owner, has_key=False)] * UPLOADS_OF_OWNER_MAX
                assert status == 429 or len(taken) == UPLOADS_MAX
                for place in taken:
                    both.handoff.places.take(place)
                async with connected(both.front.port) as (reader, writer):
                    writer.write(PUT + b"Content-Length: 5000\r\n\r\nabc")
                    assert (await read_answer(reader)).status == status
                if status == 429:
                    while taken:
                        both.handoff.places.give_back(taken.pop())
            assert (await ask(both.front.port, b"GET /v1/files HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
            while taken:
                both.handoff.places.give_back(taken.pop())

    run(main())


@pytest.mark.parametrize(
    ("path", "is_streamed"),
    [
        (b"/v1/files/file_0192f0c4-0000-7000-8000-000000000000/content", True),
        (b"/v1/files/x/content/", False),
        (b"/v1/files/../content", False),
        (b"/v1/files/a/b/content", False),
        (b"/v1/files/upload", False),
        (b"/v1/chat/completions", False),
    ],
)
def test_files_alone_are_streamed(path: bytes, is_streamed: bool) -> None:
    assert (streamed_bytes_max(path) is not None) is is_streamed
