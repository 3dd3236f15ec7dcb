from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypost.wire.sse import EVENT_BYTES_MAX, LINE_BYTES_MAX, SseEvent, SseParser, SseTooLarge

STREAM = (
    b"\xef\xbb\xbf: a comment\n\n"
    b'data: {"a":"Gr\xc3\xbc\xc3\x9fe"}\n\n'
    b"event: error\r\nid: 7\r\ndata: first\r\ndata:  second\r\n\r\n"
    b"event: message\rdata: third\r\r"
    b"event: lonely\n\n"
    b"data\ndata:\n\n"
    b"retry: 10\nunknown: field\n\n"
    b"data: [DONE]\n\n"
    b"data: without its blank line\n"
)
EVENTS: list[SseEvent] = [
    b'{"a":"Gr\xc3\xbc\xc3\x9fe"}',
    (b"error", b"first\n second"),
    b"third",
    b"\n",
    b"[DONE]",
]


def parse(reads: list[bytes]) -> list[SseEvent]:
    parser = SseParser()
    return [event for data in reads for event in parser.feed(data)]


def split(stream: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def test_a_stream_in_one_read_gives_its_events() -> None:
    assert parse([STREAM]) == EVENTS


def test_a_stream_byte_by_byte_gives_the_same_events() -> None:
    assert parse([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@settings(database=None, deadline=None, max_examples=300)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_chunking_yields_the_same_events(cuts: set[int]) -> None:
    assert parse(split(STREAM, cuts)) == EVENTS


def test_several_whole_events_in_one_read_are_all_there() -> None:
    assert parse([b"data: a\n\ndata: b\n\ndata: c\n\n"]) == [b"a", b"b", b"c"]


def test_reads_that_end_between_events_and_within_them_may_alternate() -> None:
    assert parse([b"data: a\n\n", b"data: b\n", b"\ndata: c\n\n", b"data: d\n\n"]) == [b"a", b"b", b"c", b"d"]


def test_a_carriage_return_and_line_feed_split_between_reads_are_one_line_end() -> None:
    assert parse([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"]) == [b"a", b"b"]


def test_a_line_at_its_bound_passes_and_one_over_it_does_not() -> None:
    longest = b"data: " + b"x" * (LINE_BYTES_MAX - 6)

    assert len(parse([longest + b"\n\n"])) == 1
    for reads in ([longest + b"x\n\n"], [longest, b"x"], [longest + b"x"], [b"\n" + longest + b"x\n\n"]):
        with pytest.raises(SseTooLarge):
            parse(reads)


def test_an_event_of_many_lines_is_bounded_too() -> None:
    line = b"data: " + b"x" * 65_535 + b"\n"

    with pytest.raises(SseTooLarge):
        parse([line] * (EVENT_BYTES_MAX // 65_535 + 1))
