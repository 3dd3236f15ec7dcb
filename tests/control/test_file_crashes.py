"""Whenever the process dies while it takes in a file or deletes one: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.control.crashing import SIZE
from tests.control.plane import Plane
from tests.control.uploads import announce, kept, picture
from tests.e2e.stack import _url
from waypost.kit import ids

STEPS_MAX = 60


async def test_a_crash_at_any_step_leaves_each_object_a_files_or_to_be_erased(database: str, tmp_path: Path) -> None:
    async with Plane(database, tmp_path) as plane, dying_processes(plane, database) as die_at:
        states = []
        for step in range(STEPS_MAX):
            file_id = (await announce(plane))["file_id"]
            code = await die_at(file_id, step)
            states.append(await _check_what_is_left(plane, file_id))
            await plane.files.sweep()  # what was deleted, so that the next one has as much to do
            if code == 0:
                break
            assert code == 9
        else:
            raise AssertionError("the work never ends")
        assert {"PENDING", "READY", "gone"} == set(states), "died before, between and after"

        plane.clock.step_s(3 * 3600)
        await plane.files.sweep()
        ready = await plane.rows("SELECT object_id FROM file")
        assert sorted(path.name for path in kept(plane)) == sorted(row[0].hex for row in ready)
        assert len(ready) == states.count("READY")
        assert await plane.rows("SELECT bytes FROM file_storage") == [(SIZE * len(ready),)]
        assert await plane.rows("SELECT FROM object_erasure") == []


@contextlib.asynccontextmanager
async def dying_processes(plane: Plane, database: str) -> AsyncIterator[Callable[[str, int], Awaitable[int]]]:
    """Gives what runs a process that dies at that step of its work on that file, and says its exit code."""
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.control.crashing", _url(database), str(plane.settings.data_dir)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    words, answers = starter.stdin, starter.stdout

    async def die_at(file_id: str, step: int) -> int:
        words.write(f"{ids.parse('file', file_id).hex()} {step}\n".encode())
        return int(await answers.readline())

    try:
        yield die_at
    finally:
        words.close()
        assert await starter.wait() == 0


async def _check_what_is_left(plane: Plane, file_id: str) -> str:
    """The file's state; every object is somebody's."""
    owned = await plane.rows("SELECT object_id FROM file WHERE object_id IS NOT NULL")
    doomed = await plane.rows("SELECT object_id FROM object_erasure")
    names = {row[0].hex for row in (*owned, *doomed)}
    assert {path.name for path in kept(plane)} <= names
    answer = await plane.ask("GET", f"/v1/files/{file_id}")
    if answer.status == 404:
        return "gone"
    if answer.json["status"] == "READY":
        assert (await plane.ask("GET", f"/v1/files/{file_id}/download")).body == picture(SIZE)
    return str(answer.json["status"])
