"""A disk whose writes survive the death of the process, and not a power loss before the sync."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.gateway.disk import Disk


class PowerDisk(Disk):
    def __init__(self, on_synced: Callable[[], None]) -> None:
        super().__init__()
        self._unsynced: list[tuple[Path, int, bytes]] = []  # where, and what stood there before
        self._paths: dict[int, Path] = {}
        self._on_synced = on_synced

    def create(self, path: Path, size_bytes: int) -> int:
        fd = super().create(path, size_bytes)
        self._paths[fd] = path
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:  # type: ignore[override]
        # Before it is written: a death may come in the middle.
        self._unsynced.append((self._paths[fd], offset, os.pread(fd, len(data), offset)))
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        super().fdatasync(fd)
        path = self._paths[fd]
        self._unsynced = [one for one in self._unsynced if one[0] != path]
        if not self._unsynced:
            self._on_synced()

    def lose_power(self, dice: random.Random) -> None:
        """Of what was not synced a part, in order, reached the disk. The journal's files must be closed."""
        kept = dice.randint(0, len(self._unsynced))
        for path, offset, before in reversed(self._unsynced[kept:]):
            if path.exists():
                with path.open("r+b") as file:
                    file.seek(offset)
                    file.write(before)
        self._unsynced = []
