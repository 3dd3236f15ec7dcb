"""Requests that two readers may cut differently: what the upstream sees is exactly what was taken, or nothing at all.

The upstream is reached by the hand-off, which passes on whatever it is given, method and target and body. Every shape
is sent whole and in two parts; WAYPOST_TEST_ALL_SPLITS=1 tries every place for the cut.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.transport.loopback import echo, run, serving
from tests.transport.request_shapes import SHAPES
from tests.transport.test_request_shapes import LIMITS, exchange
from waypost.gateway.handoff import HandOff
from waypost.kit.errors import Refusal
from waypost.kit.values import replace
from waypost.transport.http1_server import Exchange, ServerLimits

CUTS = 10_000 if os.environ.get("WAYPOST_TEST_ALL_SPLITS") else 4
AT_ONCE = 64


def refuse(exchange: Exchange, refusal: Refusal, _request_id: bytes) -> None:
    exchange.respond(refusal.code.status, b"", b"")


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 120


@pytest.mark.parametrize("name", SHAPES)
def test_the_upstream_sees_what_was_taken_and_nothing_else(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    if b"HTTP/1.0" in shape.data:
        shape = replace(shape, is_closed=True)  # the end of a relayed answer is the connection's
    seen: list[tuple[str, bytes, bytes]] = []

    def upstream(received: Exchange) -> None:
        target = f"{received.path}?{received.query}" if received.query else received.path
        seen.append((received.method, target.encode(), received.body.unwrap()))
        echo(received)

    async def main() -> None:
        path = str(tmp_path / "u.sock")
        cuts = range(1, len(shape.data), max(1, len(shape.data) // CUTS))
        splits = [[shape.data], *([shape.data[:cut], shape.data[cut:]] for cut in cuts)]
        handoff = HandOff(path, is_https=False, client_of=lambda _: "", refuse=refuse, on_bug=lambda _: None)
        async with (
            serving(upstream, ServerLimits(header_count=100), unix_path=path),
            serving(lambda received: handoff.relay(received, bytes(16)), LIMITS) as server,
        ):
            for start in range(0, len(splits), AT_ONCE):
                several = splits[start : start + AT_ONCE]
                await asyncio.gather(*(exchange(server.port, shape, parts) for parts in several))
            await handoff.close()
        followers = 0 if shape.is_closed else len(splits)
        assert sorted(seen) == sorted([*shape.accepted * len(splits), *[("GET", b"/follower", b"")] * followers])

    run(main())
