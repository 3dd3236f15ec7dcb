"""How a gateway ends: in its time, with a word to everybody, also while it starts; and why one does not start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from tests.e2e.stack import Stack, ask, events_of, eventually
from waypost.ledger.record import Outcome


async def spawn(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "waypost", "gateway", *arguments),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


async def refusal(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 1
    return said.decode()


async def test_a_stream_that_outlasts_the_drain_ends_with_an_error_event(database: str, tmp_path: Path) -> None:
    config = tmp_path / "waypost.toml"
    config.write_text("[server]\ndrain_s = 1\n")
    async with Stack(database, tmp_path, environment={"WAYPOST_CONFIG": str(config)}) as stack:
        body = ask("Long\nsim: words=500 delay_ms=100", stream=True, max_tokens=2000)
        reader, writer = await stack.connect("POST", "/v1/chat/completions", body)
        events = events_of(reader)
        seen = [await anext(events)]

        code = await stack.stop()

        seen += [event async for event in events]
        writer.close()
        assert code == 0
        assert '"error"' in seen[-1] or (seen[-1] == "[DONE]" and '"error"' in seen[-2])
        [row] = await stack.executions(1)
        assert row["outcome"] == Outcome.CUT_OFF


async def test_a_newer_catalogue_that_cannot_be_read_keeps_no_revoked_key_alive(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        await stack.rows(
            "INSERT INTO catalogue_version (version, content_hash, document, source)"
            " SELECT max(version) + 1, '\\x00', '{\"from_the_future\": 1}', 'command' FROM catalogue_version"
            " RETURNING version"
        )

        async def is_told() -> bool:
            return "catalogue" in (await stack.request("GET", "/readyz")).json["degraded"]

        await eventually(is_told)
        assert (await stack.chat(ask())).status == 200
        await stack.operator.revoke_key(stack.key.id)

        async def is_refused() -> bool:
            return (await stack.request("GET", "/v1/models")).status == 401

        await eventually(is_refused)


async def test_a_gateway_that_waits_for_its_database_ends_when_told_to(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as public:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "waypost", "gateway", "--data-dir", str(tmp_path / "data")),
            *("--database-url", f"postgresql:///nothing?host={tmp_path}"),
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[public.fileno()],
            env={
                **os.environ,
                "WAYPOST_PROCESS": "gateway-0",
                "WAYPOST_INTERNAL_SOCKET": str(tmp_path / "internal.sock"),
                "WAYPOST_LISTEN_FD": str(public.fileno()),
            },
        )

        async def has_begun() -> bool:
            return (tmp_path / "data" / "journal" / "gateway-0" / "lock").exists()

        await eventually(has_begun)
        process.send_signal(signal.SIGTERM)

        async with asyncio.timeout(20):
            _, said = await process.communicate()
        assert process.returncode == 0, said


async def test_a_second_gateway_on_a_data_directory_says_what_to_do(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        url = stack.settings.database_url
        assert url is not None
        said = await refusal(
            await spawn("--port", "0", "--data-dir", str(stack.data_dir), "--database-url", url, TEST_PROVIDER_KEY="x")
        )
        assert "already runs" in said
        assert "--data-dir" in said
        assert (await stack.chat(ask())).status == 200


async def test_a_taken_port_says_what_to_do(database: str, tmp_path: Path) -> None:
    async with Stack(database, tmp_path) as stack:
        url = stack.settings.database_url
        assert url is not None
        arguments = ("--port", str(stack.port), "--data-dir", str(tmp_path / "other"), "--database-url", url)
        said = await refusal(await spawn(*arguments, TEST_PROVIDER_KEY="x"))
        assert f":{stack.port} cannot be listened at" in said
        assert "--port" in said
        assert "mistake of ours" not in said
