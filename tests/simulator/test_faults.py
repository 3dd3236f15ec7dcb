"""Each kind of fault does what the table says, in the phases it says."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.raw_client import (
    AUTHORIZED,
    PREFIXES,
    Caller,
    ask,
    asking,
    connect,
    control,
    request_body,
    said,
    unchunked,
)
from waypost.simulator import Simulator
from waypost.simulator.fault import KINDS, PHASES

TWENTY = "sim: words=20"
# How much of a streamed alpha answer of twenty words stands before each phase: role chunk and deltas.
EVENTS_BEFORE = {"after_headers": 0, "after_first_chunk": 2, "mid": 11, "before_usage": 22, "after_usage": 23}


async def hit(kind: str, *, text: str = TWENTY, style: str = "alpha", stream: bool = True, **fields: Any) -> Any:
    """The answer to one request that suffers the fault."""
    async with Simulator() as sim:
        sim.arm(kind, **fields)
        heard = await ask(sim, text, style=style, stream=stream)
        assert sim.armed[0]["hits"] == 1
        assert (await ask(sim)).status == 200
    return heard


def test_the_tests_below_and_those_of_jobs_know_every_kind() -> None:
    tests = Path(__file__).read_text() + Path(__file__).with_name("test_jobs.py").read_text()
    assert [kind for kind in KINDS if f'"{kind}"' not in tests] == []


# When, for whom, how often


async def test_faults_hit_their_model_and_style_as_often_as_told() -> None:
    async with Simulator() as sim:
        sim.arm("status", status=503, model="m", style="beta", count=2)
        statuses = [
            (await ask(sim, model=model, style=style)).status
            for model, style in [("x", "beta"), ("m", "alpha"), ("m", "beta"), ("m", "beta"), ("m", "beta")]
        ]
    assert statuses == [200, 200, 503, 503, 200]


async def test_a_storm_lasts_until_it_is_cleared_and_flapping_hits_every_other_request() -> None:
    async with Simulator() as sim:
        sim.arm("status", status=429, count=0)
        storm = [(await ask(sim)).status for _ in range(4)]
        sim.disarm()
        sim.arm("status", status=500, count=0, every=2)
        flapping = [(await ask(sim)).status for _ in range(4)]
    assert storm == [429] * 4
    assert flapping == [200, 500, 200, 500]


async def test_faults_are_armed_listed_and_cleared_over_http() -> None:
    async with Simulator() as sim:
        await control(sim, "POST", "/_sim/faults", {"kind": "reset", "phase": "mid", "count": 3})
        listed = (await control(sim, "GET", "/_sim/faults")).json
        await control(sim, "DELETE", "/_sim/faults")
        assert sim.armed == []
    assert listed["armed"] == [{"kind": "reset", "phase": "mid", "count": 3, "hits": 0}]
    assert set(listed["kinds"]) == set(KINDS)


async def test_faults_of_streams_wait_for_a_stream() -> None:
    async with Simulator() as sim:
        sim.arm("bom")
        assert (await ask(sim)).raw.count(b"\xef\xbb\xbf") == 0
        assert b"\xef\xbb\xbf" in (await ask(sim, stream=True)).raw
        assert [record.fault for record in sim.requests] == ["", "bom"]


# Connections


async def test_refused_connects_until_the_time_is_over_or_the_faults_are_cleared() -> None:
    async with Simulator() as sim:
        idle = await connect(sim)
        idle.send(request_body(), headers=AUTHORIZED)
        await sim.until(lambda: bool(sim.requests and sim.requests[-1].closed_s))
        sim.arm("refuse", for_s=600)
        await idle.rest()
        with pytest.raises(ConnectionRefusedError):
            await connect(sim)
        sim.disarm()
        sim.arm("refuse", for_s=0)
        status = 0
        async with asyncio.timeout(10):
            while status == 0:
                with contextlib.suppress(ConnectionRefusedError):
                    status = (await ask(sim)).status
    assert status == 200


async def test_connections_are_reset_or_closed_at_once_or_never_answered() -> None:
    async with Simulator() as sim:
        for kind in ("reset", "half_close", "black_hole"):
            sim.arm(kind, phase="before_connect")
        heard = []
        for _ in range(2):
            caller = await connect(sim)
            heard.append(await caller.rest())
        caller = await connect(sim)
        caller.send(request_body(), headers=AUTHORIZED)
        await assert_silent(caller)
        assert sim.requests == type(sim.requests)()
        assert (await ask(sim)).status == 200
    assert [(answer.raw, answer.was_reset) for answer in heard] == [(b"", True), (b"", False)]


@pytest.mark.parametrize("phase", EVENTS_BEFORE)
@pytest.mark.parametrize("kind", ["reset", "half_close"])
async def test_a_stream_is_cut_at_each_phase(kind: str, phase: str) -> None:
    heard = await hit(kind, phase=phase)
    assert heard.status == 200
    assert heard.was_reset == (kind == "reset")
    assert heard.framed_body.count(b"data:") == EVENTS_BEFORE[phase]
    with pytest.raises(ValueError, match="missing"):
        unchunked(heard.framed_body)


@pytest.mark.parametrize("style", ["beta", "gamma"])
async def test_the_phases_fit_the_other_styles_too(style: str) -> None:
    before = [(await hit("reset", phase=phase, style=style)).framed_body for phase in EVENTS_BEFORE]
    counts = [body.count(b"data:{") + body.count(b"data: {") for body in before]
    # Beta tells its usage in the twentieth delta; gamma repeats it after the chunk that finishes.
    assert counts == ([0, 1, 10, 19, 20] if style == "beta" else [0, 1, 10, 21, 22])


@pytest.mark.parametrize("phase", PHASES)
async def test_a_whole_answer_is_cut_at_each_phase(phase: str) -> None:
    heard = await hit("half_close", phase=phase, stream=False)
    if phase == "after_request":
        assert heard.raw == b""
        return
    assert len(heard.framed_body) < int(heard.headers["content-length"])
    assert (b'"usage"' in heard.framed_body) == (phase == "after_usage")
    assert (heard.framed_body == b"") == (phase == "after_headers")


async def test_after_a_half_close_the_simulator_waits_for_the_caller_to_close() -> None:
    async with Simulator() as sim:
        sim.arm("half_close")
        caller = await asking(sim, TWENTY)
        await caller.until(lambda: caller.is_ended)
        assert sim.connections == 1
        await caller.close()
        await sim.until(lambda: sim.connections == 0)


@pytest.mark.parametrize("phase", PHASES)
async def test_silence_lasts_until_the_caller_leaves(phase: str) -> None:
    async with Simulator() as sim:
        sim.arm("silence", phase=phase)
        caller = await asking(sim, TWENTY, stream=True)
        before = EVENTS_BEFORE.get(phase, 0)
        await caller.until(lambda: caller.received.count(b"data:") >= before)
        if phase == "after_headers":
            await caller.until(lambda: caller.received.endswith(b"\r\n\r\n"))
        await assert_silent(caller)
        await sim.until(lambda: sim.requests[-1].is_closed_early)
    assert caller.received.count(b"data:") == before


@pytest.mark.parametrize("phase", PHASES)
async def test_a_pause_ends_and_the_answer_goes_on(phase: str) -> None:
    heard = await hit("silence", phase=phase, for_s=0.05)
    assert heard.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_answer_trickles_byte_by_byte(stream: bool) -> None:
    async with Simulator() as sim:
        sim.arm("slow", phase="after_usage", bytes_per_s=200)
        caller = await asking(sim, TWENTY, stream=stream)
        heard = await caller.rest()
    last = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}\n"
    assert caller.reads[-len(last) :] == [bytes([byte]) for byte in last]
    assert heard.body


async def assert_silent(caller: Caller) -> None:
    received = len(caller.reads)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await caller.until(lambda: len(caller.reads) > received)
    await caller.close()


# Other answers


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("status", [401, 403, 404, 408, 413, 429, 500, 502, 503, 504, 529])
async def test_any_status_in_the_styles_envelope(style: str, status: int) -> None:
    heard = await hit("status", status=status, style=style, message="no such luck")
    assert heard.status == status
    assert b"no such luck" in heard.body


async def test_retry_after_and_codes_are_sent_as_given() -> None:
    heard = await hit(
        "status", status=429, retry_after="soon", retry_after_ms="1.5", code="slow_down", type="t", param="p"
    )
    assert (heard.headers["retry-after"], heard.headers["retry-after-ms"]) == ("soon", "1.5")
    assert heard.json["error"] | {"message": ""} == {"message": "", "type": "t", "param": "p", "code": "slow_down"}


@pytest.mark.parametrize("stream", [False, True])
async def test_successes_that_are_none(stream: bool) -> None:
    empty, html, error = [await hit(kind, stream=stream) for kind in ("empty_200", "html_200", "json_error_200")]
    assert [empty.status, html.status, error.status] == [200, 200, 200]
    assert empty.body == b""
    assert html.headers["content-type"].startswith("text/html")
    assert html.body.startswith(b"<!doctype html>")
    assert error.json["error"]["message"]


async def test_a_redirect_names_another_place() -> None:
    heard = await hit("redirect", status=302, location="http://127.0.0.1:9/x")
    assert (heard.status, heard.headers["location"]) == (302, "http://127.0.0.1:9/x")


async def test_interim_responses_come_before_the_answer() -> None:
    heard = await hit("continue_100", count_of=2, stream=False)
    assert heard.raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("phase", ["after_request", "mid"])
async def test_secrets_are_echoed_in_errors_and_events(style: str, phase: str) -> None:
    heard = await hit("echo_secret", text="prompt-canary", style=style, phase=phase)
    for secret in (b"prompt-canary", b"sk-test", b"sim.example", b"sim-large"):
        assert secret in heard.raw
    assert heard.status == (400 if phase == "after_request" else 200)
    whole = await hit("echo_secret", text="prompt-canary", style=style, phase=phase, stream=False)
    assert whole.status == 400
    assert b"prompt-canary" in whole.body


# HTTP framing


async def test_headers_may_be_gigantic_or_many() -> None:
    gigantic, many = await hit("gigantic_header", bytes=200_000), await hit("many_headers", count_of=3000)
    assert len(gigantic.headers["x-padding"]) == 200_000
    assert many.head.count("X-Padding-") == 3000


@pytest.mark.parametrize("stream", [False, True])
async def test_content_length_may_be_short_or_long(stream: bool) -> None:
    short = await hit("wrong_content_length", value="short", stream=stream)
    long = await hit("wrong_content_length", value="long", stream=stream)
    assert int(short.headers["content-length"]) == len(short.framed_body) // 2
    assert int(long.headers["content-length"]) == len(long.framed_body) + 100


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "why"), [("truncated_chunk", "cut off"), ("bad_chunk_size", "invalid literal")])
async def test_http_chunks_may_end_early_or_have_no_size(kind: str, why: str, stream: bool) -> None:
    heard = await hit(kind, stream=stream)
    with pytest.raises(ValueError, match=why):
        unchunked(heard.framed_body)
    assert len(heard.framed_body) > 100


@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("deflate", 15)])
async def test_a_bomb_is_small_on_the_wire(encoding: str, window: int) -> None:
    heard = await hit("bomb", encoding=encoding, bytes=3_000_000)
    assert heard.headers["content-encoding"] == encoding
    assert len(heard.body) < 10_000
    assert zlib.decompress(heard.body, window) == b" " * 3_000_000


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_may_be_encoded_or_only_say_so(stream: bool) -> None:
    packed, labelled = await hit("encoding", encoding="gzip", stream=stream), await hit("encoding", stream=stream)
    assert b'"usage"' in gzip.decompress(packed.body)
    assert labelled.headers["content-encoding"] == "br"
    assert b'"usage"' in labelled.body


# JSON


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "mark"),
    [
        ("truncated_json", None),
        ("nan", b'"index":NaN'),
        ("overflow", b'"index":18446744073709551616'),
        ("duplicate_keys", b',"choices":[]}'),
        ("deep_json", b"[" * 100_000),
        ("wrong_types", b'"choices": "none"'),
    ],
)
async def test_json_is_damaged_in_one_place(kind: str, mark: bytes | None, stream: bool, style: str) -> None:
    heard = await hit(kind, stream=stream, style=style)
    documents = heard.events if stream else [heard.body.decode()]
    broken = [document for document in documents if document != "[DONE]" and not is_complete(document)]
    if mark is None:
        assert len(broken) == 1
    else:
        assert broken == []
        assert heard.body.count(mark) == 1
    assert len(documents) == (1 if not stream else {"alpha": 24, "beta": 21, "gamma": 22}[style])


def is_complete(document: str) -> bool:
    return document.strip().startswith("{") and document.strip().endswith("}")


# What is told


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("missing", None),
        ("null", None),
        ("zero", 0),
        ("negative", -7),
        ("huge", 10**12),
        ("overflow", 2**64),
        ("text", "many"),
        ("float", 12.5),
    ],
)
async def test_usage_may_be_anything(value: str, told: object, stream: bool, style: str) -> None:
    async with Simulator() as sim:
        sim.arm("usage", value=value)
        heard = await ask(sim, TWENTY, style=style, stream=stream)
        assert sim.bill.lines[0].output_tokens == 20
    documents = heard.chunks if stream else [heard.json]
    counts = [document["usage"]["completion_tokens"] for document in documents if document.get("usage")]
    assert set(counts) == (set() if told is None else {told})
    assert any("usage" in document for document in documents) == (value != "missing")


@pytest.mark.parametrize("style", PREFIXES)
async def test_usage_may_come_twice_or_early(style: str) -> None:
    twice = [bool(chunk.get("usage")) for chunk in (await hit("duplicate_usage", style=style)).chunks]
    early = [bool(chunk.get("usage")) for chunk in (await hit("early_usage", style=style, phase="mid")).chunks]
    assert twice[-2:] == [True, True]
    assert early.count(True) == 1
    assert early.index(True) == (11 if style == "alpha" else 10)


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_choice_may_tell_how_it_finished(style: str, stream: bool) -> None:
    heard = said(await hit("no_finish_reason", style=style, stream=stream))
    assert heard["choices"][0]["finish"] is None
    assert heard["tokens"][2] == 20


# Server-sent events


@pytest.mark.parametrize("phase", EVENTS_BEFORE)
async def test_an_error_event_ends_the_stream_without_done(phase: str) -> None:
    alpha, beta, gamma = [await hit("error_event", phase=phase, style=style, message="oops") for style in PREFIXES]
    assert len(alpha.events) == EVENTS_BEFORE[phase] + 1
    assert json.loads(alpha.events[-1])["error"]["message"] == "oops"
    assert json.loads(beta.events[-1])["error"]["code"] == 500
    assert json.loads(beta.events[-1])["choices"][0]["finish_reason"] == "error"
    assert json.loads(gamma.events[-1])["object"] == "error"
    assert b"event: error\n" in gamma.body


async def test_an_event_may_be_no_json() -> None:
    heard = await hit("garbage_event")
    assert '{"choices": oops' in heard.events
    assert heard.events[-1] == "[DONE]"


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("value", ["crlf", "cr", "lf", "mix"])
async def test_lines_may_end_in_any_way(value: str, style: str) -> None:
    heard = await hit("line_ends", value=value, style=style)
    ends = {"crlf": (20, 0, 0), "cr": (0, 20, 0), "lf": (0, 0, 20), "mix": (1, 1, 1)}[value]
    body = heard.body
    lone = body.replace(b"\r\n", b"")
    found = (body.count(b"\r\n"), lone.count(b"\r"), lone.count(b"\n"))
    assert all((count >= 1) == (end >= 1) for count, end in zip(found, ends, strict=True))
    assert said(heard) == said(await hit("line_ends", value="lf", style="alpha"))


@pytest.mark.parametrize("kind", ["bom", "split_utf8", "byte_by_byte", "comment_flood"])
async def test_bytes_before_between_and_apart_change_nothing_that_is_said(kind: str) -> None:
    plain = said(await hit("line_ends", value="lf", text="sim: words=60"))
    heard = await hit(kind, text="sim: words=60")
    assert said(heard) == plain
    sizes = [int(line, 16) for line in heard.framed_body.split(b"\r\n")[::2] if line]
    match kind:
        case "bom":
            assert heard.body.startswith(b"\xef\xbb\xbfdata:")
        case "byte_by_byte":
            assert set(sizes) == {1, 0}
        case "comment_flood":
            assert heard.body.count(b": flood\n") == 10_000


async def test_characters_are_split_over_segments() -> None:
    async with Simulator() as sim:
        sim.arm("split_utf8")
        caller = await asking(sim, "sim: words=60", stream=True)
        await caller.rest()
    assert any(is_cut_inside_a_character(read.removesuffix(b"\r\n")) for read in caller.reads)


def is_cut_inside_a_character(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return True
    return False


async def test_one_line_may_be_very_long() -> None:
    heard = await hit("endless_line", bytes=1_000_000)
    assert max(map(len, heard.body.split(b"\n"))) >= 1_000_000


async def test_events_may_not_be_separated() -> None:
    heard = await hit("no_blank_lines")
    assert b"\n\n" not in heard.body
    assert heard.body.count(b"data:") == 24


async def test_done_may_be_missing_come_twice_or_not_be_the_end() -> None:
    none, twice, more = [await hit(kind) for kind in ("no_done", "two_done", "event_after_done")]
    assert "[DONE]" not in none.events
    assert twice.events[-2:] == ["[DONE]", "[DONE]"]
    assert more.events[-2] == "[DONE]"
    assert json.loads(more.events[-1])["choices"][0]["delta"] == {"content": " late"}
