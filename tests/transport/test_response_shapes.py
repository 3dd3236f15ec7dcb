"""What becomes of an origin's answers, and that no cut of their bytes changes it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.loopback import PATIENT, Recorder, fetch, origin, playing, pooling, run, send_in_parts
from tests.transport.response_shapes import SHAPES, Shape
from waypost.transport.http1_client import ClientLimits, TransportFailure
from waypost.transport.http1_response import ResponseReader

LIMITS = ClientLimits(header_bytes=2000, body_bytes=1000)
FOLLOWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfollower"


async def exchange(shape: Shape, parts: list[bytes]) -> None:
    """Play the parts to a caller, then a plain answer on whichever connection asks."""
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await reader.readuntil(b"\r\n\r\n")
            await send_in_parts(writer, parts)
            if shape.is_closed:
                return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(FOLLOWER)
        await reader.read()

    async with origin(script) as port, pooling(port, LIMITS) as pool:
        recorder = await fetch(pool, head=shape.request + b" / HTTP/1.1\r\nhost: a\r\n")
        assert (recorder.status, recorder.failure) == (shape.status, shape.failure)
        if shape.failure is not TransportFailure.TOO_LARGE:
            assert recorder.body == shape.body
        assert pool.idle == shape.is_reused
        assert (await fetch(pool)).body == b"follower"
        assert connections == (1 if shape.is_reused else 2)


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_told_as_written_down_over_a_socket_whole_and_cut(name: str) -> None:
    shape = SHAPES[name]

    async def main() -> None:
        cuts = range(1, len(shape.data), max(1, len(shape.data) // 4))
        splits = [[shape.data], *([shape.data[:cut], shape.data[cut:]] for cut in cuts)]
        await asyncio.gather(*(exchange(shape, parts) for parts in splits))

    run(main())


def read(parts: list[bytes], request: bytes) -> tuple[int, dict[bytes, bytes], bytes, object, bool]:
    """What a reader makes of the parts: status, headers, body, failure, whether complete."""
    reader = ResponseReader(LIMITS.header_bytes)
    reader.expect(is_head_request=request == b"HEAD")
    body, failure = b"", None
    for part in parts:
        if not reader.is_complete and failure is None:  # a connection without a call drops whatever arrives
            failure = reader.feed(part)
            body += reader.take_body()
    return reader.status, reader.headers if reader.has_head else {}, body, failure, reader.is_complete


@pytest.mark.parametrize("name", SHAPES)
def test_every_single_cut_gives_the_same_answer(name: str) -> None:
    shape = SHAPES[name]
    whole = read([shape.data], shape.request)
    for cut in range(1, len(shape.data)):
        assert read([shape.data[:cut], shape.data[cut:]], shape.request) == whole, cut


STREAM = b"".join(shape.data for shape in SHAPES.values() if shape.is_reused)


@settings(max_examples=100, deadline=None)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_any_chunking_of_the_answers_of_one_connection_gives_the_same_answers(cuts: set[int]) -> None:
    reader = ResponseReader(LIMITS.header_bytes)
    offset = 0
    for name, shape in ((name, shape) for name, shape in SHAPES.items() if shape.is_reused):
        end = offset + len(shape.data)
        edges = [offset, *sorted(cut for cut in cuts if offset < cut < end), end]
        reader.expect(is_head_request=False)
        body = b""
        for a, b in itertools.pairwise(edges):
            assert reader.feed(STREAM[a:b]) is None, name
            body += reader.take_body()
        assert (reader.status, body) == (shape.status, shape.body), name
        assert reader.is_complete, name
        assert reader.is_reusable, name
        offset = end


def test_headers_have_lower_case_names_and_repeated_ones_are_joined() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
        async with origin(playing(answer)) as port, pooling(port) as pool:
            assert (await fetch(pool)).headers == {b"x-a": b"1, 2", b"content-length": b"0"}

    run(main())


def test_an_answer_that_ends_with_the_connection_is_marked_as_such() -> None:
    async def main() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")

        async with origin(script) as port, pooling(port) as pool:
            recorder = Recorder()
            call = pool.call(b"GET / HTTP/1.1\r\nhost: a\r\n", b"", recorder, PATIENT)
            await recorder.is_over.wait()
            assert (recorder.ends, call.is_close_delimited) == (1, True)

    run(main())


def test_the_fragments_of_one_read_are_told_as_one() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n"
        async with origin(playing(answer)) as port, pooling(port) as pool:
            assert (await fetch(pool)).parts == [b"x" * 100]

    run(main())
