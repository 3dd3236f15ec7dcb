"""A stack whose gateways are several processes under a supervisor, as `waypost up --workers N` runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

from tests.e2e.stack import Stack, _url


class Supervised(Stack):
    def __init__(self, database: str, directory: Path, *, workers: int, **options: Any) -> None:
        super().__init__(database, directory, **options)
        self.workers = workers

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "waypost", "up", "--port", "0", "--metrics-port", "0", "--workers", str(self.workers)),
            *("--data-dir", str(self.data_dir), "--database-url", _url(self.database)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        self._reading = asyncio.ensure_future(self._read_log(asyncio.get_running_loop().create_future()))
        assert self._process.stdout is not None
        async with asyncio.timeout(self.patience_s):
            line = await self._process.stdout.readline()
        self.port = int(line.rpartition(b":")[2])

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log says so far under that name, oldest first."""
        return [event for event in self.log if event["event"] == name]

    @property
    def running(self) -> dict[str, int]:
        """Gateway processes by name, with the pid that each was last started with."""
        return {str(event["process"]): int(event["pid"]) for event in self.events("ProcessStarted")}

    @property
    def journals(self) -> list[Path]:
        """Folders, one for each gateway process."""
        return [self.data_dir / "journal" / f"gateway-{number}" for number in range(self.workers)]

    def kill_one(self, dice: Random) -> bool:
        """SIGKILL to one of the workers; False when that one is gone already."""
        pid = dice.choice(sorted(self.running.values()))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True
