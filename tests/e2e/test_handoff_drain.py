"""A gateway that leaves lets end what it has handed to the control process, and what callers are still sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.e2e.stack import Stack
from tests.transport.loopback import connected, read_answer, serving
from tests.transport.test_uploads import Server, shown, until
from waypost.gateway.handoff import streamed_bytes_max
from waypost.transport.http1_server import Exchange

PUT = b"PUT /v1/files/file_1/content HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
GET = b"GET /v1/executions/exec_1?wait=1 HTTP/1.1\r\nHost: a\r\n\r\n"


class Slow(Server):
    """A control process whose answers wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> None:
        if exchange.incoming is None:
            self.waiting.append(exchange)
        else:
            super().__call__(exchange)


@asynccontextmanager
async def before_slow_control(database: str, directory: Path) -> AsyncIterator[tuple[Stack, Slow]]:
    socket_path, config = directory / "control.sock", directory / "waypost.toml"
    config.write_text(f'[server]\ncontrol_socket = "{socket_path}"\n')
    control = Slow()
    async with (
        serving(control, unix_path=str(socket_path), streams=streamed_bytes_max),
        Stack(database, directory, environment={"WAYPOST_CONFIG": str(config)}) as stack,
    ):
        yield stack, control


async def test_what_was_handed_over_is_answered_before_the_gateway_has_left(database: str, tmp_path: Path) -> None:
    async with (
        before_slow_control(database, tmp_path) as (stack, control),
        connected(stack.port) as (reader, writer),
        connected(stack.port) as (upload_reader, upload_writer),
        connected(stack.port) as (idle_reader, idle_writer),
    ):
        idle_writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await read_answer(idle_reader)).status == 200
        writer.write(GET)
        upload_writer.write(PUT + b"abc")
        await until(lambda: bool(control.waiting) and bool(control.seen) and control.seen[0].arrived == 3)

        leaving = asyncio.ensure_future(stack.stop())
        await until(lambda: any(event["event"] == "Draining" for event in stack.log))
        idle_writer.write(GET)  # the last request of a connection that was there before
        await until(lambda: len(control.waiting) == 2)
        assert not leaving.done()
        upload_writer.write(b"def")
        for exchange in control.waiting:
            exchange.respond(200, b"", b"done")

        answers = [await read_answer(each) for each in (reader, idle_reader, upload_reader)]
        assert [answer.body for answer in answers] == [b"done", b"done", shown(b"abcdef")]
        assert {answer.headers.get("connection") for answer in answers} == {"close"}
        assert await leaving == 0
