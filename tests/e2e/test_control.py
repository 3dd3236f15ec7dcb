"""The control process behind the gateway, as two real processes: one port, one key."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.e2e.stack import Stack, _url, ask, eventually


async def test_keys_are_made_through_the_gateway_and_calls_go_on_without_the_control_process(
    database: str, tmp_path: Path
) -> None:
    socket_path = tmp_path / "control.sock"
    config = tmp_path / "waypost.toml"
    config.write_text(f'[server]\ncontrol_socket = "{socket_path}"\n')
    async with Stack(database, tmp_path, environment={"WAYPOST_CONFIG": str(config)}) as stack:
        before = await stack.request("GET", "/v1/api-keys")
        assert (before.status, before.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")

        control = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "control", "--socket", str(socket_path)),
            *("--data-dir", str(stack.data_dir), "--database-url", _url(database)),
            env={**os.environ},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:

            async def is_there() -> bool:
                return (await stack.request("GET", "/v1/api-keys")).status == 200

            await eventually(is_there)
            assert socket_path.stat().st_mode & 0o777 == 0o600
            made = await stack.request("POST", "/v1/api-keys", b'{"name":"other"}')
            assert made.status == 201, made.body
            assert made.headers["x-request-id"].startswith("req_")

            async def is_known() -> bool:
                return (await stack.request("GET", "/v1/models", key=made.json["key"])).status == 200

            await eventually(is_known)
            for path in ("/metrics", "/%6detrics", "/%72eadyz"):
                assert (await stack.request("GET", path)).status == 404, path
        finally:
            control.kill()
            await control.wait()

        assert (await stack.chat(ask("hi"))).status == 200
        after = await stack.request("GET", "/v1/api-keys")
        assert (after.status, after.headers["retry-after"]) == (503, "2")
