"""Objects: byte strings under a name, written once as a stream, read in parts, and deleted.

What is given to them is sealed already (`stores.sealing`), so whoever keeps them can read nothing of it. `LocalObjects`
keeps them in a folder; `stores.s3` in a bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeVar

INCOMING = "incoming"  # the folder of what is being written
PIECE_BYTES = 1024 * 1024  # read or written at a time; the store may be far away, so it is worth its while
_NAME = re.compile(r"[0-9a-f]{32}")
_Result = TypeVar("_Result")


class ObjectMissing(Exception):
    """There is no object of that name, or not the wanted part of it."""


class StoreUnavailable(Exception):
    """The store does not answer, refuses us, or has no room. `reason` is a few words of ours: its own text, which may
    name places and credentials, is not repeated."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Objects(Protocol):
    """A name is 32 hexadecimal digits. Every method raises StoreUnavailable."""

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """Keep what `parts` yields: whole, and for good once this returns; when `parts` raises, nothing."""

    def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`. Raises ObjectMissing."""

    async def delete(self, name: str) -> None:
        """Whatever there is of that name, whole or begun; fine when there is nothing."""


async def examine(objects: Objects) -> None:
    """Write, read and delete something. Raises StoreUnavailable."""
    name = "e" * 16 + os.urandom(8).hex()

    async def parts() -> AsyncIterator[bytes]:
        yield name.encode()

    await objects.put(name, parts())
    try:
        found = b"".join([piece async for piece in objects.read(name, 0, len(name))])
    except ObjectMissing:
        found = b""
    await objects.delete(name)
    if found != name.encode():
        raise StoreUnavailable("what was written did not come back")


class LocalObjects:
    """A folder for its owner only. What is being written stands in `incoming` under the object's own name, so that
    whatever a crash leaves is deleted by that name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        file = await _in_thread(self._create, name)
        try:
            async for part in in_pieces(parts, PIECE_BYTES):
                await _in_thread(_write_all, file, part)
            await _in_thread(self._keep, name, file)
        except BaseException:
            self._incoming(name).unlink(missing_ok=True)
            raise
        finally:
            file.close()

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        file = await _in_thread(_open, self._path(name))
        try:
            while start < end:
                piece = await _in_thread(os.pread, file.fileno(), min(PIECE_BYTES, end - start), start)
                if not piece:
                    raise ObjectMissing
                start += len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, name: str) -> None:
        await _in_thread(self._delete, name)

    def free_bytes(self) -> int:
        """Room on the disk. Raises OSError."""
        _make(self._directory)
        return shutil.disk_usage(self._directory).free

    def _create(self, name: str) -> FileIO:
        for directory in (self._directory, self._incoming(name).parent, self._path(name).parent):
            _make(directory)
        return FileIO(self._incoming(name), "x", opener=_for_the_owner)

    def _keep(self, name: str, file: FileIO) -> None:
        os.fsync(file.fileno())
        os.rename(self._incoming(name), self._path(name))
        for directory in (self._path(name).parent, self._directory):  # the folder itself may be new
            _sync_directory(directory)

    def _delete(self, name: str) -> None:
        self._incoming(name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()
            _sync_directory(self._path(name).parent)

    def _path(self, name: str) -> Path:
        # The last digits of an id are random, the first are the time: 256 folders that fill evenly.
        assert _NAME.fullmatch(name), "a name is an id in hexadecimal digits"
        return self._directory / name[-2:] / name

    def _incoming(self, name: str) -> Path:
        return self._directory / INCOMING / name


async def in_pieces(parts: AsyncIterable[bytes], piece_bytes: int) -> AsyncGenerator[bytes, None]:
    """The same bytes in pieces of at least `piece_bytes`, but for the last: each costs a write, or a request."""
    pending: list[bytes] = []
    size = 0
    async for part in parts:
        pending.append(part)
        size += len(part)
        if size >= piece_bytes:
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


async def _in_thread(work: Callable[..., _Result], *arguments: object) -> _Result:
    """Off the loop, since a disk may take its time. Even when cancelled it waits for the end of the work, under which
    no file may be closed."""
    job = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        with _told():
            return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait((job,))
        raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no room left" if full else os.strerror(error.errno or errno.EIO).lower()
        raise StoreUnavailable(reason) from None


def _make(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)  # whatever the process's mask is


def _open(path: Path) -> FileIO:
    return FileIO(path, "r")


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
