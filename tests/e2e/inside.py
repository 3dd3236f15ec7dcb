"""A `Stack` whose gateway runs in the test's own process, so that a test can look into it and count what it keeps.

async with InsideStack(database, tmp_path) as stack:
    assert stack.gateway.fleet.gates()["alpha"].places.in_flight == 0
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.stack import Stack
from waypost.app.wiring import GatewayOptions, GatewayProcess


class InsideStack(Stack):
    """Everything that a `Stack` does, but for what needs a process of its own: `kill`, `pid` and `log`."""

    gateway: GatewayProcess

    def __init__(self, database: str, directory: Path, **options: Any) -> None:
        super().__init__(database, directory, **options)
        self._serving: asyncio.Task[int] | None = None
        self._environment_before: Mapping[str, str] = dict(os.environ)

    async def __aenter__(self) -> InsideStack:
        await super().__aenter__()
        return self

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = listener.getsockname()[1]
        run_dir = self.data_dir / "run"
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = GatewayOptions(
            host="127.0.0.1", port=self.port, internal_path=run_dir / "gateway.sock", listen_fd=listener.detach()
        )
        os.environ.update(self._environment)
        self.gateway = GatewayProcess(self.settings, self.database, options)
        self._serving = asyncio.ensure_future(self.gateway.serve())
        async with asyncio.timeout(30):
            while not self.gateway.is_ready and not self._serving.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if self._serving.done():
            self._serving.result()

    async def __aexit__(self, *details: object) -> None:
        if self._serving is not None:
            await self.stop()
        await super().__aexit__(*details)

    async def stop(self) -> int:
        assert self._serving is not None
        self.gateway.ask_to_stop()
        code = await self._serving
        self._serving = None
        gc.unfreeze()
        for name in os.environ.keys() - self._environment_before.keys():
            del os.environ[name]
        return code
