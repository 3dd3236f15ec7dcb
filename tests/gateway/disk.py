"""File operations that fail on command, records to write, and a process death without a process."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from waypost.gateway.journal import Journal
from waypost.gateway.segment import SystemFiles
from waypost.kit.ids import Ids
from waypost.ledger.record import Close, ClosedAttempt, Open, Outcome
from waypost.wire.canonical import Usage

ORG = b"organisation-one"
LEASE = b"lease-number-one"
_ids = Ids()


class Killed(BaseException):
    """The process died here."""


class Disk(SystemFiles):
    """The real file system, without its slow syncs, until told to fail."""

    def __init__(self) -> None:
        self.is_full = False  # nothing new can be allocated
        self.is_refusing_writes = False  # a file system that allocates on every write, and is full
        self.is_broken = False
        self.bytes_until_death: int | None = None
        self.syncs = 0
        self.synced = threading.Event()

    def create(self, path: Path, size_bytes: int) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, size_bytes)
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:  # type: ignore[override]
        if self.is_broken:
            raise OSError(errno.EIO, "input/output error")
        if self.is_refusing_writes:
            return os.pwrite(fd, data[: len(data) // 2], offset)
        if self.bytes_until_death is not None and self.bytes_until_death < len(data):
            os.pwrite(fd, data[: self.bytes_until_death], offset)
            raise Killed
        if self.bytes_until_death is not None:
            self.bytes_until_death -= len(data)
        return os.pwrite(fd, data, offset)

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        if self.is_broken:
            raise OSError(errno.EIO, "input/output error")
        self.syncs += 1
        self.synced.set()


def sync_at_once(journal: Journal, died: Callable[[], None] = lambda: None) -> None:
    """Without its thread: what somebody waits for is synced when he asks. `died` is called when the process does so."""

    def hurry() -> None:
        try:
            journal.maintain()
        except OSError:
            journal._fail()
        except Killed:
            died()
            return
        journal._let_go()

    journal._keeper.hurry = hurry  # type: ignore[method-assign]


def kill(journal: Journal) -> None:
    """What is left of a journal when its process is killed: files, and no lock on them."""
    journal._is_shut = True  # nothing of it goes on
    spares = [segment for segment in (journal._next, journal._emergency) if segment is not None]
    for segment in {*journal._segments, *journal._garbage, *spares}:
        os.close(segment.fd)
    os.close(journal._lock_fd)


def opened(
    execution_id: bytes | None = None,
    *,
    number: int = 1,
    hold: int = 1000,
    cost_bound: int = 700,
    lease: bytes = LEASE,
    has_long_hold: bool = False,
) -> Open:
    """With a long hold, that of the execution."""
    execution_id = execution_id or _ids.new()
    return Open(
        attempt_id=_ids.new(),
        execution_id=execution_id,
        lease_id=execution_id if has_long_hold else lease,
        org_id=ORG,
        api_key_id=b"api-key-number-1",
        hold_nanos=hold,
        cost_bound_nanos=cost_bound,
        price_version=3,
        attempt_number=number,
        opened_at_ms=1_760_000_000_000,
        accepted_at_ms=1_760_000_000_000,
        is_stream=True,
        model="swift-1",
        provider="alpha",
        deployment="alpha/alpha-large",
        has_long_hold=has_long_hold,
    )


def closed(record: Open, *, is_final: bool = True, charge: int = 400, cogs: int = 300) -> Close:
    return Close(
        attempt_id=record.attempt_id,
        outcome=Outcome.COMPLETED if is_final else Outcome.FAILED,
        is_final=is_final,
        charge_nanos=charge if is_final else 0,
        cogs_nanos=cogs,
        closed_at_ms=1_760_000_001_000,
        first_content_ms=120,
        status=200 if is_final else 0,
        error_code="" if is_final else "MODEL_OVERLOADED",
        usage=Usage(10, 0, 0, 0, 20, 0),
    )


def attempt(*, is_final: bool = True) -> ClosedAttempt:
    record = opened()
    return ClosedAttempt(record, closed(record, is_final=is_final))


def write(journal: Journal, one: ClosedAttempt) -> None:
    journal.open(one.open)
    journal.close(one.close)
