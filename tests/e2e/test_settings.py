"""Settings that change while a gateway serves: each is in force without a restart, and nobody who calls notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.e2e.stack import Answer, Stack, ask, eventually, parse
from tests.transport.loopback import serving
from tests.transport.test_proxy_header import header

ORIGIN = "https://app.example.org"


async def keep_asking(stack: Stack, statuses: list[int], stop: asyncio.Event) -> None:
    while not stop.is_set():
        statuses.append((await stack.chat(ask("sim: words=2"))).status)


def is_so(call: Callable[[], Awaitable[bool]]) -> Awaitable[None]:
    return eventually(call, 10)


async def ask_as(stack: Stack, begin: bytes) -> Answer:
    """`GET /healthz` on a connection that begins with these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(begin + b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = parse(await reader.read())
    writer.close()
    return answer


async def test_each_setting_takes_effect_under_load(database: str, tmp_path: Path) -> None:
    config = tmp_path / "waypost.toml"
    config.write_text("")
    statuses: list[int] = []
    stop = asyncio.Event()
    async with Stack(database, tmp_path, environment={"WAYPOST_CONFIG": str(config)}) as stack:
        asking = [asyncio.ensure_future(keep_asking(stack, statuses, stop)) for _ in range(2)]

        async def allows_origin() -> bool:
            answer = await stack.request("GET", "/v1/models", headers={"origin": ORIGIN})
            return answer.headers.get("access-control-allow-origin") == ORIGIN

        assert not await allows_origin()
        config.write_text(f'[server]\ncors_origins = ["{ORIGIN}"]\n')
        await is_so(allows_origin)
        preflight = await stack.request(
            "OPTIONS",
            "/v1/chat/completions",
            headers={"origin": ORIGIN, "access-control-request-method": "POST"},
            key="",
        )
        assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, ORIGIN)

        long = ask("x" * 9000)
        assert (await stack.chat(long)).status == 200
        config.write_text("[server.limits]\nbody_bytes = 8000\n")

        async def is_too_large() -> bool:
            return (await stack.chat(long)).status == 413

        await is_so(is_too_large)
        assert not await allows_origin()

        assert (await ask_as(stack, header())).status == 400
        config.write_text('[server]\ntrusted_proxies = ["127.0.0.0/8"]\n')

        async def takes_proxy_header() -> bool:
            return (await ask_as(stack, header())).status == 200

        await is_so(takes_proxy_header)

        # Refused as a whole: what was in force stays.
        config.write_text('[server]\ntrusted_proxies = []\ncors_origins = ["*"]\n')

        async def is_refused() -> bool:
            return "SettingsRefused" in [event["event"] for event in stack.log]

        await is_so(is_refused)
        assert await takes_proxy_header()

        control = f"{stack.data_dir}/control.sock"
        assert (await stack.request("GET", "/console/")).status == 404
        config.write_text(f'[server]\ncontrol_socket = "{control}"\n')

        async def is_handed_over() -> bool:
            return (await stack.request("GET", "/console/")).status == 503

        await is_so(is_handed_over)
        refused = await stack.request("GET", "/console/")
        assert refused.json["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert (await stack.chat(ask())).status == 200
        async with serving(lambda exchange: exchange.respond(200, b"", b"here"), unix_path=control):
            assert (await stack.request("GET", "/console/")).body == b"here"

        config.write_text("[server]\ndrain_s = 1\n")

        async def is_adopted() -> bool:
            return [event["event"] for event in stack.log].count("SettingsAdopted") == 5

        await is_so(is_adopted)
        stop.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        slow = asyncio.ensure_future(stack.chat(ask("sim: words=200 delay_ms=100", stream=True)))
        seen = len(stack.sim.requests)
        await stack.sim.until(lambda: len(stack.sim.requests) > seen)
        assert await stack.stop() == 0
        assert '"error"' in (await slow).body.decode()  # cut off after one second, not thirty
