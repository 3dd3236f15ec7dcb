"""A process that takes in a file, deletes it and sweeps, and dies at a step of that work: for `test_file_crashes`.

    python -m tests.control.crashing DATABASE DATA_DIR FILE_ID STEP

A step is the beginning or the end of a use of the database or of a piece of work on the disk. Dying is `os._exit`: no
handler runs, nothing is closed. Exit code 9: it died; 0: the work has fewer steps.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvloop

from tests.control.uploads import picture
from waypost.app.file_wiring import build_files
from waypost.app.secrets import open_secrets
from waypost.app.settings import read_settings
from waypost.kit.clock import SystemClock
from waypost.kit.ids import Ids
from waypost.storage.files import Actor, find_file
from waypost.storage.pool import Pool
from waypost.storage.roles import Role
from waypost.stores import objects

SIZE = 1_200_000  # several writes


class Steps:
    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def take(self) -> None:
        if self._left == 0:
            os._exit(9)
        self._left -= 1


class DyingPool(Pool):
    def __init__(self, conninfo: str, steps: Steps) -> None:
        super().__init__(conninfo, Role.APP, size=2)
        self._steps = steps

    @contextlib.asynccontextmanager
    async def connection(self, *, is_patient: bool = False) -> AsyncIterator[Any]:
        self._steps.take()
        async with super().connection(is_patient=is_patient) as connection:
            yield connection
        self._steps.take()


async def work(database: str, data_dir: Path, file_id: bytes, fatal: int) -> None:
    steps = Steps(fatal)
    in_thread = objects._in_thread

    async def dying(piece: Callable[..., Any], *arguments: object) -> Any:
        steps.take()
        done = await in_thread(piece, *arguments)
        steps.take()
        return done

    objects._in_thread = dying  # type: ignore[assignment]
    settings = read_settings(environment={}, data_dir=data_dir, database_url=database, config_path=Path("/dev/null"))
    plain = Pool(database, Role.APP, size=1)
    secrets = open_secrets(settings.secrets_dir)
    store = build_files(settings, secrets, DyingPool(database, steps), clock=SystemClock(), ids=Ids())
    row = await find_file(plain, None, file_id, store.now())
    assert row is not None

    async def source() -> AsyncIterator[bytes]:
        content = picture(SIZE)
        for at in range(0, SIZE, 65_536):
            yield content[at : at + 65_536]

    await store.receive(row, source(), source_ip=None)
    await store.delete(row.org_id, row.id, Actor(None, None))
    await store.sweep()


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], Path(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])))
