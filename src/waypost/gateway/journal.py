"""The write-ahead journal of one worker process: what it promised about money, in local files, before it acts on it.

    OPEN is in the file before the first upstream byte (R1). CLOSE is a synchronous append, so no cancellation can stand
    between the end of an attempt and its record (R2). A segment is deleted once the database has booked everything that
    an execution with a record in it did (R3).

An append is one pwrite(2) into the page cache, which survives any death of the process; a thread calls fdatasync
within 10 ms, so that only a power loss can take the records of the last milliseconds. A failed fdatasync is never
repeated: the kernel has dropped the pages and the repetition would lie. Segments are deleted as soon as they are
booked: they tell who used which model when, the database tells it too, and nothing reads them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from waypost.gateway.journal_keeper import Keeper
from waypost.gateway.segment import FileOperations, Segment, SystemFiles, UnbookedExecution, run_of, segment_paths
from waypost.ledger.journal_format import (
    ACKNOWLEDGED_MAX,
    encode,
    encode_ack,
    encode_close,
    encode_extend,
    encode_grant,
    encode_open,
    encode_progress,
)
from waypost.ledger.record import Close, ClosedAttempt, Extend, Grant, Open, Progress

SEGMENT_BYTES = 64 << 20  # about 200,000 attempts
EMERGENCY_BYTES = 8 << 20  # about 60,000 CLOSE records: more than a process has requests running
SEGMENTS_MAX = 16  # 1 GiB, 3.2 million attempts that the database has not booked: two minutes at 25,000 per second
SYNC_INTERVAL_S = 0.010
RETRY_INTERVAL_S = 1.0  # between tries to allocate a segment on a full disk
CARRIED_MAX = 256  # executions moved out of the oldest segment at a time: under a millisecond
DAMAGED_SUFFIX = ".damaged"
_LENGTH_WITHOUT_CARRYING = 2  # segments
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class JournalFull(Exception):
    """There is no room to promise anything more. What runs can still be closed; new requests get 503."""


class JournalFailed(Exception):
    """The disk refused a write or a sync. The process has to stop admission, end and recover."""


class Journal:
    """Made by `open_dir`; `run` must be running for durability and for room. One thread, no await in any append."""

    def __init__(
        self,
        directory: Path,
        lock_fd: int,
        *,
        segment_bytes: int,
        emergency_bytes: int,
        segments_max: int,
        files: FileOperations,
        on_failed: Callable[[], None],
        survives_power_loss: bool,
        kept_segments: int,
    ) -> None:
        self.earlier: tuple[Path, ...] = tuple(segment_paths(directory))
        self.is_failed = False
        self.is_full = False  # the disk, when a segment was last asked for
        self._directory = directory
        self._lock_fd = lock_fd
        self._segment_bytes = segment_bytes
        self._emergency_bytes = emergency_bytes
        self._segments_max = segments_max
        self._files = files
        self._pwrite = files.pwrite
        self._on_failed = on_failed
        self._survives_power_loss = survives_power_loss
        self._kept_segments = kept_segments
        self._synced_lsn = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  # for the sync of a record, by its LSN
        self._run_number = max(map(run_of, self.earlier), default=0) + 1
        self._numbers = itertools.count(1)
        self._lsn = 0
        self._executions: dict[bytes, UnbookedExecution] = {}
        self._attempts: dict[bytes, UnbookedExecution] = {}
        self._adopted: set[bytes] | None = None  # attempts of earlier runs that are not booked; None before recovery
        self._damaged: frozenset[Path] = frozenset()
        self._kept: deque[Path] = deque()  # booked, of earlier runs; what is booked of this one is garbage
        self._garbage: deque[Segment] = deque()
        self._emergency: Segment | None = self._create(is_emergency=True)
        self._current = self._create(is_emergency=False)
        self._next: Segment | None = None
        self._segments = deque([self._current])
        self._is_dirty = True
        self._is_shut = False
        self._is_hurry_due = False
        self._maintenance = threading.Lock()  # a cancelled `run` leaves its thread to finish
        self._keeper = Keeper(
            self._keep, self._waiting, self._let_go, pause_s=SYNC_INTERVAL_S, retry_s=RETRY_INTERVAL_S
        )

    @classmethod
    def open_dir(
        cls,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        emergency_bytes: int = EMERGENCY_BYTES,
        segments_max: int = SEGMENTS_MAX,
        files: FileOperations | None = None,
        on_failed: Callable[[], None] = lambda: None,
        survives_power_loss: bool = False,
        kept_segments: int = 0,
    ) -> Journal:
        """A new set of segments in the directory, which is this process's alone until `shut`.

        `on_failed` is called once, in the event loop's thread, when the disk has failed. The last `kept_segments` that
        are booked stay, for `recovery.closed_since`, unless the disk is full. Raises BlockingIOError when another
        process has the directory, OSError when there is no room for the segments.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(
                directory,
                lock_fd,
                segment_bytes=segment_bytes,
                emergency_bytes=emergency_bytes,
                segments_max=segments_max,
                files=files or SystemFiles(),
                on_failed=on_failed,
                survives_power_loss=survives_power_loss,
                kept_segments=kept_segments,
            )
        except OSError:
            os.close(lock_fd)
            raise

    # What is written. Each of these has the record in the file when it returns.

    def grant(self, record: Grant) -> None:
        """Before the database is asked for a lease, or for more of one. Raises JournalFull, JournalFailed."""
        self._append(encode_grant(self._lsn + 1, record), is_admission=True)

    def open(self, record: Open) -> None:
        """Before the first upstream byte. Raises JournalFull, JournalFailed: then nothing may be sent.

        When an execution goes on to another attempt, the CLOSE of the failed one, which is not final, stands before
        this. If the OPEN does not fit, a second CLOSE of that attempt, with `is_final`, ends the execution.
        """
        self._append(encode_open(self._lsn + 1, record), is_admission=True)
        execution = self._executions.get(record.execution_id)
        if execution is None:
            execution = self._executions[record.execution_id] = UnbookedExecution(self._current, record)
            self._current.unfinished += 1
        else:
            execution.records.append(record)
            execution.opens += 1
        self._attempts[record.attempt_id] = execution

    def when_safe(self, then: Callable[[], None]) -> None:
        """Run it when what was written until now survives what it has to: at once, or where that is a loss of power,
        after the next sync, one for all who wait. Never, when the disk fails before."""
        if self._survives_power_loss:
            self._when_synced(then)
        else:
            then()

    def _when_synced(self, then: Callable[[], None]) -> None:
        self._waiting.append((self._lsn, then))
        if not self._is_hurry_due:
            # When this turn of the loop is over: a sync that began at once would miss those who come with it.
            self._is_hurry_due = True
            asyncio.get_running_loop().call_soon(self._hurry)

    async def is_synced(self, within_s: float) -> bool:
        """Whether what was written until now survives a loss of power too, within so long."""
        synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._when_synced(lambda: None if synced.done() else synced.set_result(None))
        await asyncio.wait((synced,), timeout=within_s)
        return synced.done()

    def _hurry(self) -> None:
        self._is_hurry_due = False
        self._keeper.hurry()

    def progress(self, record: Progress) -> None:
        """What of a stream is delivered. Never raises: where there is no room for it, what stands there counts."""
        self._note(record, encode_progress(self._lsn + 1, record))

    def extend(self, record: Extend) -> bool:
        """Whether the raised hold of a running attempt is written; if not, nothing may be delivered on it."""
        return self._note(record, encode_extend(self._lsn + 1, record))

    def _note(self, record: Progress | Extend, data: bytes) -> bool:
        execution = self._attempts.get(record.attempt_id)
        if execution is None or self._current.is_emergency:
            return False
        try:
            self._append(data, is_admission=True)
        except (JournalFull, JournalFailed):
            return False
        same = (one for one in execution.records if type(one) is type(record) and one.attempt_id == record.attempt_id)
        earlier = next(same, None)
        if earlier is not None:
            execution.records.remove(earlier)
        execution.records.append(record)
        return True

    def close(self, record: Close) -> None:
        """An attempt ended. Never raises: what a failed disk did not take, the settler still books from memory.

        A second CLOSE of an attempt may only end its execution (`is_final`); its amounts do not count.
        """
        try:
            self._append(encode_close(self._lsn + 1, record), is_admission=False)
        except JournalFull:
            self._fail()  # not even the emergency segment took it
            return
        except JournalFailed:
            return
        execution = self._attempts.get(record.attempt_id)
        if execution is not None:
            execution.records.append(record)

    def acknowledge(self, attempts: Sequence[ClosedAttempt]) -> None:
        """The database has booked these attempts. Never raises; a lost acknowledgement only books them again."""
        for start in range(0, len(attempts), ACKNOWLEDGED_MAX):
            part = attempts[start : start + ACKNOWLEDGED_MAX]
            data = encode_ack(self._lsn + 1, [attempt.close.attempt_id for attempt in part])
            # An emergency segment is for CLOSE alone.
            has_room = self._current.end + len(data) <= self._current.size_bytes
            if has_room and not self.is_failed and not self._current.is_emergency:
                with contextlib.suppress(JournalFailed):
                    self._write(data)
        for attempt in attempts:
            self._forget(attempt)
        self._drop_booked()
        if len(self._segments) > _LENGTH_WITHOUT_CARRYING:
            with contextlib.suppress(JournalFailed):
                self._carry_forward()

    def adopt(
        self, attempts: Iterable[ClosedAttempt], damaged: Iterable[Path] = (), recent: Iterable[Path] = ()
    ) -> None:
        """Recovery found these in the `earlier` segments, which go away once all of them are acknowledged; of the
        recent ones, oldest first, `kept_segments` stay. The damaged ones are put aside then, not deleted."""
        self._damaged = frozenset(damaged)
        self._kept = deque(path for path in recent if path not in self._damaged)
        self._adopted = {attempt.open.attempt_id for attempt in attempts}
        self._keeper.wake()

    # What goes on beside it.

    async def run(self) -> None:
        """Sync what was written within 10 ms, keep room allocated ahead, delete what was booked. Ends by cancellation,
        or when the disk has failed."""
        try:
            await self._keeper.run()
        except OSError:
            self._fail()

    def _keep(self) -> bool:
        self.maintain()
        return self._next is not None and self._emergency is not None

    def maintain(self) -> None:
        """One round of what `run` does, in any thread. Raises OSError when a sync failed."""
        with self._maintenance:
            if not self._is_shut and not self.is_failed:
                self._maintain()

    def _maintain(self) -> None:
        self._is_dirty = False  # before the sync: what is appended during it needs another one
        lsn = self._lsn
        for segment in tuple(self._segments):
            end = segment.end
            if segment.synced_end < end:
                self._files.fdatasync(segment.fd)
                segment.synced_end = end
        self._synced_lsn = lsn
        self._delete_booked()
        has_room = self._allocate_ahead()
        if not has_room:
            self._delete_kept(0)  # a call that can be promised is worth more than what is booked
            has_room = self._allocate_ahead()
        self.is_full = not has_room

    def _allocate_ahead(self) -> bool:
        try:
            if self._emergency is None:
                self._emergency = self._create(is_emergency=True)
            if self._next is None:
                self._next = self._create(is_emergency=False)
        except OSError:
            return False
        return True

    def _let_go(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._synced_lsn and not self.is_failed:
            self._waiting.popleft()[1]()

    def shut(self) -> None:
        """Give the directory back. The rest is there to be recovered, as is what is kept; else no file stays behind."""
        with self._maintenance:
            self._is_shut = True
        is_synced = not self.is_failed and self._sync_all()
        self._delete_booked()
        unused = [segment for segment in (self._next, self._emergency) if segment is not None]
        is_of_use = self._kept_segments > 0 or self._executions or not is_synced
        for segment in (*self._garbage, *self._segments) if is_of_use else ():
            self._files.close(segment.fd)
        unused += () if is_of_use else self._segments
        for segment in unused:
            self._delete(segment)
        os.close(self._lock_fd)

    @property
    def unfinished(self) -> int:
        return len(self._executions)  # not wholly booked

    @property
    def is_running_out(self) -> bool:
        """Whether room for new attempts is running out, or has: the disk is full, or the database books nothing."""
        return self.is_full or self._current.is_emergency or len(self._segments) >= self._segments_max

    @property
    def segments(self) -> int:
        return len(self._segments)

    @property
    def paths(self) -> tuple[Path, ...]:
        own = tuple(segment.path for segment in (*self._garbage, *self._segments))
        return (*dict.fromkeys((*self.earlier, *self._kept)), *own)

    def _append(self, data: bytes, *, is_admission: bool) -> None:
        if self.is_failed:
            raise JournalFailed
        segment = self._current
        if segment.end + len(data) > segment.size_bytes or (is_admission and segment.is_emergency):
            self._rotate(is_admission=is_admission)
        if not self._write(data):
            if is_admission:
                raise JournalFull
            self._append(data, is_admission=False)

    def _write(self, data: bytes) -> bool:
        """Whether the disk had room for it in the current segment. Raises JournalFailed."""
        segment = self._current
        try:
            written = self._pwrite(segment.fd, data, segment.end)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                self._fail()
                raise JournalFailed from error
            written = 0
        if written != len(data):
            # Some file systems allocate again on every write. What got there is a torn tail; nothing follows it.
            segment.size_bytes = segment.end
            self.is_full = True
            return False
        segment.end += written
        self._lsn += 1
        if not self._is_dirty:
            self._is_dirty = True
            self._keeper.wake()
        return True

    def _rotate(self, *, is_admission: bool) -> None:
        """Go on in another segment. Raises JournalFull."""
        if is_admission and len(self._segments) >= self._segments_max:
            raise JournalFull
        segment, self._next = self._next, None
        if segment is None and not self.is_full:
            try:
                segment = self._create(is_emergency=False)
            except OSError:
                self.is_full = True
        if segment is None and not is_admission:
            segment, self._emergency = self._emergency, None
        if segment is None:
            raise JournalFull
        self._current = segment
        self._segments.append(segment)
        self._keeper.wake()

    def _create(self, *, is_emergency: bool) -> Segment:
        return Segment.create(
            self._directory,
            run=self._run_number,
            number=next(self._numbers),
            size_bytes=self._emergency_bytes if is_emergency else self._segment_bytes,
            files=self._files,
            is_emergency=is_emergency,
        )

    def _forget(self, attempt: ClosedAttempt) -> None:
        attempt_id = attempt.open.attempt_id
        if self._adopted:
            self._adopted.discard(attempt_id)
            if not self._adopted:
                self._keeper.wake()
        execution = self._executions.get(attempt.open.execution_id)
        if execution is None:
            return
        if attempt_id not in execution.booked:
            execution.booked += (attempt_id,)
        execution.is_final = execution.is_final or attempt.close.is_final
        if execution.is_final and len(execution.booked) == execution.opens:
            del self._executions[attempt.open.execution_id]
            for record in execution.records:
                self._attempts.pop(record.attempt_id, None)
            execution.segment.unfinished -= 1

    def _drop_booked(self) -> None:
        # Oldest first only: an execution is counted in the segment of its first record.
        while self._segments[0] is not self._current and not self._segments[0].unfinished:
            self._garbage.append(self._segments.popleft())
            self._keeper.wake()

    def _carry_forward(self) -> None:
        """Write the records of long-running executions again, so that a few of them do not keep old segments alive."""
        oldest = self._segments[0]
        front = list(itertools.islice(self._executions.items(), CARRIED_MAX))
        for execution_id, execution in front:
            if execution.segment is not oldest or execution.segment is self._current or execution.is_being_booked:
                break
            if self._next is None or self._current.is_emergency or self.is_failed or self.is_full:
                break
            first = self._carry(execution)
            if first is None:
                break
            execution.segment = first
            oldest.unfinished -= 1
            first.unfinished += 1
            self._executions[execution_id] = self._executions.pop(execution_id)
        self._drop_booked()

    def _carry(self, execution: UnbookedExecution) -> Segment | None:
        """Write an execution's records again; the segment of the first, or None when there was no room for all of them:
        then those in the oldest segment still count. The emergency segment is not for this."""
        first: Segment | None = None
        for record in execution.records:
            lsn = self._lsn + 1
            data = encode(lsn, record)
            if self._current.end + len(data) > self._current.size_bytes:
                if self._next is None:
                    return None
                self._rotate(is_admission=False)
            if not self._write(data):
                return None
            first = first or self._current
        return first

    def _sync_all(self) -> bool:
        try:
            for segment in self._segments:
                self._files.fdatasync(segment.fd)
        except OSError:
            self._fail()
        return not self.is_failed

    def _delete_booked(self) -> None:
        if self._adopted is not None and not self._adopted and self.earlier:
            for path in self.earlier:
                if path in self._damaged:
                    path.rename(path.with_suffix(DAMAGED_SUFFIX))
                elif path not in self._kept:
                    self._files.unlink(path)
            self.earlier = ()
        self._delete_kept(self._kept_segments)

    def _delete_kept(self, kept_segments: int) -> None:
        while len(self._garbage) > kept_segments:
            self._delete(self._garbage.popleft())
        # As long as not all of it is booked, they are among the earlier ones.
        while self._kept and not self.earlier and len(self._kept) + len(self._garbage) > kept_segments:
            self._files.unlink(self._kept.popleft())

    def _delete(self, segment: Segment) -> None:
        self._files.close(segment.fd)
        self._files.unlink(segment.path)

    def _fail(self) -> None:
        if not self.is_failed:
            self.is_failed = True
            self._keeper.end()
            self._on_failed()
