"""Segments: the preallocated files that a journal is made of, what keeps one from being deleted, and the file
operations it needs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from waypost.ledger.journal_format import MAGIC
from waypost.ledger.record import Close, Extend, Open, Progress

_SUFFIX = ".wal"
_BLOCK_BYTES = 64 << 10  # more than the longest record
_ZEROS = bytes(_BLOCK_BYTES)


class FileOperations(Protocol):
    """What a journal asks of the file system; each raises OSError as the system call does."""

    def create(self, path: Path, size_bytes: int) -> int:
        """A descriptor of a new file whose bytes are all allocated and zero, and whose name is durable."""

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        """How much was written."""

    def fdatasync(self, fd: int, /) -> None: ...

    def close(self, fd: int, /) -> None: ...

    def unlink(self, path: Path, /) -> None: ...


class SystemFiles:
    """The operating system's own."""

    pwrite = staticmethod(os.pwrite)
    # macOS, a platform for development, has no fdatasync.
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))
    close = staticmethod(os.close)
    unlink = staticmethod(os.unlink)

    def create(self, path: Path, size_bytes: int) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _allocate(fd, size_bytes)
            _sync_directory(path.parent)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return fd


class Segment:
    """One file of a journal. `unfinished` counts the executions that keep it from being deleted."""

    __slots__ = ("end", "fd", "is_emergency", "path", "size_bytes", "synced_end", "unfinished")

    def __init__(self, path: Path, fd: int, size_bytes: int, *, is_emergency: bool) -> None:
        self.path = path
        self.fd = fd
        self.size_bytes = size_bytes
        self.is_emergency = is_emergency
        self.end = len(MAGIC)
        self.synced_end = 0
        self.unfinished = 0

    @classmethod
    def create(
        cls, directory: Path, *, run: int, number: int, size_bytes: int, files: FileOperations, is_emergency: bool
    ) -> Segment:
        path = directory / f"{run:08d}-{number:06d}{_SUFFIX}"
        fd = files.create(path, size_bytes)
        if files.pwrite(fd, MAGIC, 0) != len(MAGIC):
            files.close(fd)
            files.unlink(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return cls(path, fd, size_bytes, is_emergency=is_emergency)


class UnbookedExecution:
    """Records that must stay in the journal until all of an execution is booked."""

    __slots__ = ("booked", "is_final", "opens", "records", "segment")

    def __init__(self, segment: Segment, record: Open) -> None:
        self.segment = segment  # of the first record; later ones stand in the same or in later segments
        self.records: list[Open | Close | Progress | Extend] = [record]
        self.opens = 1
        self.booked: tuple[bytes, ...] = ()  # attempt ids, at most three
        # The attempt that ends it is booked; one with a long hold ends elsewhere, so its attempts are all there is.
        self.is_final = record.has_long_hold

    @property
    def is_being_booked(self) -> bool:
        """Whether an attempt has ended and the database does not know."""
        return any(isinstance(record, Close) and record.attempt_id not in self.booked for record in self.records)


def segment_paths(directory: Path) -> list[Path]:
    """The segments in a directory; a damaged one that was put aside is no segment any more."""
    return sorted(directory.glob("[0-9]*" + _SUFFIX))


def read_written(path: Path) -> bytes:
    """A segment without the zeros that were allocated and never written, but for a block of them at the end: a record
    may end in zeros of its own."""
    kept: list[bytes] = []
    zero_blocks = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            # A comparison reads 64 MiB of zeros fifty times as fast as anything that looks at each byte.
            if block == _ZEROS[: len(block)]:
                zero_blocks += 1
                continue
            kept += [_ZEROS] * zero_blocks
            kept.append(block)
            zero_blocks = 0
    return b"".join(kept) + _ZEROS[: zero_blocks * _BLOCK_BYTES]


def run_of(path: Path) -> int:
    """The number of the process run that wrote a segment; runs count up."""
    return int(path.name.partition("-")[0])


def _allocate(fd: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
    else:
        os.ftruncate(fd, size_bytes)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
