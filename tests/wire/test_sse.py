from __future__ import annotations

import os
import random
import re
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


# ── against the specification, read line by line ────────────────────────────────────────────────────────────────────

CASES = int(os.environ.get("WAYPOST_SSE_CASES", "100000"))
_LINE_END = re.compile(rb"\r\n|\r|\n")
_WORDS = (
    *(b"data: ", b"data:", b"data", b"event: ", b"event:", b"event: message", b"id: 7", b"retry: 10", b":", b" "),
    *(b"\n", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"),
    *(b"a", b"[DONE]", b'{"a":1}', "ü€😀".encode(), b"\xe2\x82", b"\xef\xbb\xbf", b"\x00", b"x: y"),
)


def specified(stream: bytes) -> list[SseEvent]:
    """WHATWG HTML §9.2.6, in as few words as it has."""
    *lines, _ = _LINE_END.split(stream.removeprefix(b"\xef\xbb\xbf"))
    events: list[SseEvent] = []
    name, data = b"", b""
    for line in lines:
        if not line:
            if data:
                text = data[:-1]
                events.append(text if name in (b"", b"message") else (name, text))
            name, data = b"", b""
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return events


def test_random_streams_in_random_reads_say_what_the_specification_says() -> None:
    dice = random.Random(20_26)
    words, choose = _WORDS, dice.choices
    for _ in range(CASES):
        stream = b"".join(choose(words, k=int(dice.random() * 14)))
        cuts = {int(dice.random() * (len(stream) + 1)) for _ in range(int(dice.random() * 4))}
        assert parse(split(stream, cuts)) == specified(stream), (stream, cuts)


@pytest.mark.parametrize(
    "piece", [b"x" * 65_536, b": " + b"x" * 65_534, b"event: " + b"x" * 65_529, b"data: x" * 9_362]
)
def test_an_endless_line_ends_at_its_bound_whatever_it_is(piece: bytes) -> None:
    parser = SseParser()

    with pytest.raises(SseTooLarge):
        [parser.feed(piece) for _ in range(LINE_BYTES_MAX // len(piece) + 2)]


def test_a_line_of_a_mebibyte_comes_through_in_pieces_of_any_size() -> None:
    value = ("é" * ((LINE_BYTES_MAX - 6) // 2)).encode()
    stream = b"data: " + value + b"\n\n"

    for size in (1_021, 65_537, len(stream)):
        assert parse([stream[at : at + size] for at in range(0, len(stream), size)]) == [value]
