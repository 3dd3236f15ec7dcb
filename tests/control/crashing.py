"""Processes that take in a file, delete it and sweep, and die at a step of that work: for `test_file_crashes`.

    python -m tests.control.crashing DATABASE DATA_DIR

For each line FILE_ID STEP on its input it answers with the exit code of such a process, a fork of itself: what each of
them needs is imported once. A step is the beginning or the end of a use of the database or of a piece of work on the
disk. Dying is `os._exit`: no handler runs, nothing is closed. Exit code 9: it died; 0: the work has fewer steps.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
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


def code_of_fork(database: str, data_dir: Path, file_id: bytes, fatal: int) -> int:
    """Nothing runs here yet, no loop and no thread: a fork is as good as a new process."""
    pid = os.fork()
    if pid == 0:
        try:
            uvloop.run(work(database, data_dir, file_id, fatal))
        except BaseException:  # noqa: BLE001  a fork must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        file, step = line.split()
        print(code_of_fork(sys.argv[1], Path(sys.argv[2]), bytes.fromhex(file), int(step)), flush=True)
