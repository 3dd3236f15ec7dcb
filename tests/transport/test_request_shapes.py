"""Which requests are taken, and that no cut of their bytes changes it."""

from __future__ import annotations

import ast
import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.loopback import connected, echo, read_answer, refuse, run, send_in_parts, serving
from tests.transport.request_shapes import SHAPES, Shape
from waypost.kit.errors import ErrorCode
from waypost.kit.values import replace
from waypost.transport.http1_request import RequestReader
from waypost.transport.http1_server import Exchange, ServerLimits
from waypost.transport.incoming import Incoming
from waypost.transport.server_state import ServerState

LIMITS = ServerLimits(header_bytes=2000, line_bytes=800, body_bytes=1000)
FOLLOWER = b"GET /follower HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

Outcome = tuple[list[tuple[str, bytes, bytes, bool]], ErrorCode | None]


def read(parts: list[bytes]) -> Outcome:
    """What a reader makes of the parts: (method, target, body, kept) of each request, and the refusal."""
    state = ServerState()
    requests = []

    def remember(reader: RequestReader) -> None:
        requests.append((reader.method, reader.target, reader.body, reader.is_keep_alive))

    reader = RequestReader(LIMITS, state, remember)
    code = next((code for part in parts if (code := reader.feed(part)) is not None), None)
    reader.close()
    assert state.buffered_bytes == sum(len(body) for _, _, body, _ in requests)
    return requests, code


async def exchange(port: int, shape: Shape, parts: list[bytes]) -> None:
    """Send the parts to a server and check every answer, and what happens to the connection afterwards."""
    async with connected(port) as (reader, writer):
        await send_in_parts(writer, parts)
        for expected in shape.accepted:
            answer = await read_answer(reader)
            method, path, query, _, body = ast.literal_eval(answer.body.decode())
            target = f"{path}?{query}" if query else path
            assert (answer.status, method, target.encode(), body) == (200, *expected)
        if shape.refused is not None:
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (shape.refused.status, shape.refused.name.encode())
            assert answer.headers["connection"] == "close"
            assert answer.headers["x-refused"] == "yes"
        if shape.is_closed:
            assert answer.headers["connection"] == "close"
            assert await reader.read() == b""
        else:
            writer.write(FOLLOWER)
            assert b"'/follower'" in (await read_answer(reader)).body
            assert await reader.read() == b""


@pytest.mark.parametrize("name", SHAPES)
def test_a_request_is_taken_or_refused_as_written_down_over_a_socket_whole_and_cut(name: str) -> None:
    shape = SHAPES[name]

    async def main() -> None:
        cuts = range(1, len(shape.data), max(1, len(shape.data) // 6))
        splits = [[shape.data], *([shape.data[:cut], shape.data[cut:]] for cut in cuts)]
        async with serving(echo, LIMITS) as server:
            await asyncio.gather(*(exchange(server.port, shape, parts) for parts in splits))

    run(main())


class Flowing:
    """Reads a body that is not held, and answers as `echo` does."""

    def __init__(self, exchange: Exchange, incoming: Incoming) -> None:
        self._exchange = exchange
        self._body = b""
        incoming.read(self)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_body_end(self) -> None:
        each = self._exchange
        seen = (each.method, each.path, each.query, sorted(each.headers.items()), self._body)
        each.respond(200, b"content-type: text/plain\r\n", repr(seen).encode())

    def on_body_failed(self, code: ErrorCode) -> None:
        self._exchange.respond(code.status, *refuse(code))


def flow(exchange: Exchange) -> None:
    if exchange.incoming is None:
        echo(exchange)
    else:
        Flowing(exchange, exchange.incoming)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if b"POST /p HTTP" in shape.data])
def test_a_body_that_is_not_held_is_taken_or_refused_in_the_same_way(name: str) -> None:
    posted = SHAPES[name]
    accepted = tuple(("PUT" if method == "POST" else method, *rest) for method, *rest in posted.accepted)
    data = posted.data.replace(b"POST /p HTTP", b"PUT /p HTTP")
    shape = replace(posted, data=data, accepted=accepted)

    async def main() -> None:
        splits = [[data], *([data[:cut], data[cut:]] for cut in range(1, len(data), max(1, len(data) // 12)))]
        async with serving(flow, LIMITS, streams=lambda _: LIMITS.body_bytes) as server:
            await asyncio.gather(*(exchange(server.port, shape, parts) for parts in splits))

    run(main())


@pytest.mark.parametrize("name", SHAPES)
def test_every_single_cut_gives_the_same_requests(name: str) -> None:
    data = SHAPES[name].data
    whole = read([data])
    for cut in range(1, len(data)):
        requests, code = read([data[:cut], data[cut:]])
        if "close" in name and code is not None:
            code = whole[1]  # what follows a request to close is never looked at
        assert (requests, code) == whole, cut


def test_every_shape_byte_by_byte_gives_the_same_requests() -> None:
    for name, shape in SHAPES.items():
        requests, code = read([bytes((byte,)) for byte in shape.data])
        assert [request[:3] for request in requests] == list(shape.accepted), name
        assert code == shape.refused or "close" in name, name


STREAM = b"".join(shape.data for shape in SHAPES.values() if shape.refused is None and not shape.is_closed)


@settings(max_examples=100, deadline=None)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_any_chunking_of_a_stream_of_requests_gives_the_same_requests(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read([STREAM[a:b] for a, b in itertools.pairwise(edges)]) == read([STREAM])


def test_repeated_list_headers_are_joined_and_names_are_in_lower_case() -> None:
    async def main() -> None:
        async with serving(echo) as server, connected(server.port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x \r\nACCEPT: y\r\nX-Empty:\r\n\r\n")
            headers = ast.literal_eval((await read_answer(reader)).body.decode())[3]
            assert headers == [(b"accept", b"x, y"), (b"host", b"a"), (b"x-empty", b"")]

    run(main())
