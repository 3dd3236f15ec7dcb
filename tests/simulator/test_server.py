"""The simulator as a server: HTTP, credentials, what it saw, and its command."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time

import pytest

from tests.simulator.raw_client import (
    AUTHORIZED,
    ONCE,
    PREFIXES,
    ask,
    asking,
    connect,
    connect_to,
    control,
    request_body,
)
from waypost.simulator import BadFault, Simulator


@pytest.mark.parametrize("style", PREFIXES)
@pytest.mark.parametrize("credential", ["", "Authorization: Bearer \r\n", "Authorization: Basic abc\r\n"])
async def test_a_request_without_a_bearer_credential_is_refused(style: str, credential: str) -> None:
    async with Simulator() as sim:
        caller = await connect(sim)
        caller.send(request_body(), style=style, headers=credential + "Connection: close\r\n")
        heard = await caller.rest()
    assert heard.status == 401


async def test_only_accepted_keys_are_served_when_some_are_set() -> None:
    async with Simulator() as sim:
        assert (await ask(sim)).status == 200
        await control(sim, "POST", "/_sim/options", {"accepted_keys": ["sk-other"]})
        assert (await ask(sim)).status == 401
        await control(sim, "POST", "/_sim/options", {"accepted_keys": ["sk-other", "sk-test"]})
        assert (await ask(sim)).status == 200


async def test_a_request_is_remembered_with_its_headers_times_and_body() -> None:
    before = time.monotonic()
    async with Simulator() as sim:
        await ask(sim, "hello", model="m", stream=True, style="gamma")
        shown = (await control(sim, "GET", "/_sim/requests")).json["requests"]
    (record,) = sim.requests
    assert record.body == request_body("hello", stream=True, model="m")
    assert record.header("authorization") == "Bearer sk-test"
    assert (record.style, record.model, record.is_stream, record.status) == ("gamma", "m", True, 200)
    assert before <= record.arrived_s <= record.first_byte_s <= record.closed_s <= time.monotonic()
    assert not record.is_closed_early
    assert ["Host", "sim.example"] in shown[0]["headers"]
    assert "body" not in shown[0]


async def test_a_connection_serves_many_requests_also_when_they_come_at_once() -> None:
    async with Simulator() as sim:
        caller = await connect(sim)
        for _ in range(50):
            caller.send(request_body("sim: words=2"), headers=AUTHORIZED)
        caller.send(request_body("sim: words=2"), headers=ONCE)
        heard = await caller.rest()
        assert sim.connections == 0
    assert heard.raw.count(b"HTTP/1.1 200 OK") == 51


async def test_a_request_may_arrive_byte_by_byte_or_chunked() -> None:
    body = request_body("sim: words=2")
    head = "POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
    counted = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\n".encode() + body[:5]
    chunked += b"\r\n%x;x=y\r\n%b\r\n0\r\n\r\n" % (len(body) - 5, body[5:])
    async with Simulator() as sim:
        for request in (counted, chunked):
            caller = await connect(sim)
            for at in range(len(request)):
                caller.transport.write(request[at : at + 1])
                await asyncio.sleep(0)
            assert (await caller.rest()).status == 200
    assert sim.requests[0].body == sim.requests[1].body == body


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"x" * 70000])
async def test_what_is_not_http_is_refused_and_the_connection_closed(sent: bytes) -> None:
    async with Simulator() as sim:
        caller = await connect(sim)
        caller.transport.write(sent)
        assert (await caller.rest()).status in (400, 431)


async def test_unknown_paths_and_models_are_not_found() -> None:
    async with Simulator() as sim:
        for path in ("/v1/nothing", "/nothing", "/_sim/nothing", "/beta/v1/models/none"):
            caller = await connect(sim)
            caller.send(b"", method="GET", path=path, headers=ONCE)
            assert (await caller.rest()).status == 404


async def test_a_reader_that_stops_holds_the_model_up() -> None:
    async with Simulator() as sim:
        with socket.create_connection((sim.host, sim.port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = request_body("sim: words=200000", stream=True)
            slow.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n{AUTHORIZED}\r\n".encode() + body
            )
            await sim.until(lambda: bool(sim.bill.lines))
            # Whoever asks later is served, so the loop has long had its turn with the stalled one.
            for _ in range(100):
                await ask(sim)
            assert sim.bill.lines[-1].is_open
            assert sim.bill.lines[-1].output_tokens < 200000
        await sim.until(lambda: sim.requests[0].is_closed_early)


async def test_leaving_closes_every_connection_and_the_port() -> None:
    async with Simulator() as sim:
        caller = await asking(sim, "sim: first_ms=60000")
        await sim.until(lambda: len(sim.requests) == 1)
    heard = await caller.rest()
    assert heard.raw == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(sim)


async def test_a_taken_port_is_an_error() -> None:
    async with Simulator() as sim:
        with pytest.raises(OSError, match="in use"):
            async with Simulator(port=sim.port):
                pass


async def test_the_command_tells_when_it_is_ready_and_stops_on_sigterm() -> None:
    async with Simulator() as free:
        port = free.port
    code = f"from waypost.simulator import run; run({port})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == f"waypost sim ready http://127.0.0.1:{port}\n".encode()
    caller = await connect_to("127.0.0.1", port)
    caller.send(request_body(), headers=ONCE)
    assert (await caller.rest()).status == 200
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "nonsense"},
        {"kind": "status", "status": 42},
        {"kind": "status", "phase": "mid"},
        {"kind": "status", "depth": 3},
        {"kind": "usage", "value": "lots"},
        {"kind": "reset", "phase": "before_connect", "model": "m"},
        {"kind": "reset", "unknown": 1},
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused(fault: dict[str, object]) -> None:
    async with Simulator() as sim:
        heard = await control(sim, "POST", "/_sim/faults", fault)
    assert heard.status == 400
    assert heard.json["error"]
    assert sim.armed == []


async def test_arming_in_process_refuses_the_same() -> None:
    async with Simulator() as sim:
        with pytest.raises(BadFault):
            sim.arm("reset", phase="never")
