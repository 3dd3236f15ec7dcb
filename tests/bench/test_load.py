"""What goes over the wire, the mock provider and the load against it, and what the other programs report."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from bench.exchange import ANSWER_BYTES, REQUEST_BYTES, answer_body, request_body, stream_event, stream_model
from bench.load import LoadOptions, hold_streams, is_complete, load_streams, percentile
from bench.mock import content_length
from bench.process import BenchError
from bench.profiling import summarise_stacks
from bench.system import is_listening, parse_status, require_free
from bench.tools import version_in

from bench import wrk


@pytest.fixture
def mock_port() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-m", "bench.mock", "0"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline().removeprefix(b"listening "))
        finally:
            process.terminate()


def test_requests_and_answers_have_their_size() -> None:
    assert len(request_body("plain-chat", is_stream=False)) == REQUEST_BYTES
    assert len(request_body(stream_model(100, 10), is_stream=True)) == REQUEST_BYTES
    assert len(answer_body()) == ANSWER_BYTES
    assert json.loads(answer_body())["usage"]["total_tokens"] == 250


def test_a_stream_has_a_role_a_finish_reason_and_usage_in_this_order() -> None:
    events = [json.loads(stream_event(index, 30, now_ns=7).removeprefix(b"data: ")) for index in range(30)]

    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[10]["choices"][0]["delta"]["content"] == " @7@"
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 28 + ["stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 50


async def test_every_chunk_of_every_stream_is_counted(mock_port: int) -> None:
    options = LoadOptions(port=mock_port, model=stream_model(25, 1), seconds=0.2, streams=8, ramp_s=0.01)

    report = await load_streams(options)

    assert report.failed == 0
    assert report.completed >= 8
    assert report.chunks == 25 * report.completed
    assert report.us_p50 > 0
    assert report.transit_us_p50 > 0


async def test_held_streams_stay_open_until_they_are_let_go(
    mock_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LoadOptions(port=mock_port, model=stream_model(1000, 500), streams=8, ramp_s=0.01)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    report = await hold_streams(options)

    assert capsys.readouterr().out == "open\n"
    assert (report.completed, report.failed) == (0, 0)
    assert report.chunks >= 8


async def test_a_broken_stream_counts_as_failed() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        report = await load_streams(LoadOptions(port=port, model="m", seconds=0.05, streams=2, ramp_s=0.01))

    assert (report.completed, report.failed) == (0, 2)


def test_percentiles_are_of_sorted_values_in_microseconds() -> None:
    values = [nanos * 1000 for nanos in range(100, 0, -1)]

    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([], 0.5) == 0


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\nContent-Le", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
    ],
)
def test_an_answer_is_complete_by_its_length_or_its_last_chunk(answer: bytes, whole: bool) -> None:
    assert is_complete(answer) is whole


def test_a_request_tells_its_length() -> None:
    assert content_length(b"POST / HTTP/1.1\r\nContent-Length: 12\r\nhost: x") == 12
    assert content_length(b"POST / HTTP/1.1\r\nhost: x") is None


def test_the_report_is_found_in_what_wrk_prints() -> None:
    output = """Running 10s test @ http://127.0.0.1:9311/v1/chat/completions
  1 threads and 64 connections
Requests/sec:  25012.10
Transfer/sec:     18.61MB
{"requests":250121,"failed":0,"received_bytes":195094380,"seconds":10.000121,"us_p50":2410.0,"us_p99":8562.0,"us_max":9000.0}
"""

    report = wrk.parse_report(output)

    assert (report.requests, report.failed, report.us_p99) == (250_121, 0, 8562.0)


def test_wrk_without_a_report_is_an_error() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        wrk.parse_report("unable to connect to 127.0.0.1:9311 Connection refused\n")


def test_the_script_of_wrk_carries_body_and_key() -> None:
    text = wrk.script("plain-chat", "Bearer sk_1")

    assert 'wrk.method = "POST"' in text
    assert 'wrk.headers["Authorization"] = "Bearer sk_1"' in text
    assert request_body("plain-chat", is_stream=False).decode() in text


def test_the_mocks_counter_is_read_from_its_status_page() -> None:
    page = "Active connections: 2 \nserver accepts handled requests\n 17 17 4242 \nReading: 0 Writing: 1 Waiting: 1 \n"

    assert parse_status(page) == 4242


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("nginx version: nginx/1.22.1", "1.22.1"),
        ("envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0"),
        ("command not found", "unknown"),
    ],
)
def test_versions_are_found_in_what_programs_say_of_themselves(text: str, version: str) -> None:
    assert version_in(text) == version


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert is_listening(port)
        with pytest.raises(BenchError, match=str(port)):
            require_free((port,))


def test_stacks_become_a_table_of_functions() -> None:
    text = summarise_stacks("main (a.py:1);respond (b.py:7) 3\nmain (a.py:2);respond (b.py:9);encode (c.py:1) 1\n")

    assert text.splitlines() == [
        "  own  whole  function",
        "75.0% 100.0%  respond (b.py)",
        "25.0%  25.0%  encode (c.py)",
    ]
