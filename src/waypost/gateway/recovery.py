"""What an earlier run of this worker left in its journal: read at start, booked through the settler like anything else.

A crash during recovery is harmless: the files stay until all of it is acknowledged, and booking twice books once.

    journal = Journal.open_dir(directory)
    for attempt in recover(journal, now_ms).attempts:
        settler.add(attempt)
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from waypost.gateway.journal import Journal
from waypost.gateway.segment import read_written, run_of, segment_paths
from waypost.ledger.journal_format import Record, read_segment
from waypost.ledger.record import Ack, Close, ClosedAttempt
from waypost.ledger.replay import closed_attempts, replay

# How far back attempts are booked again, before the server was last heard of: no standby that is to be promoted lags
# for longer.
REPLAYED_S = 15 * 60
_HEAD_BYTES = 1 << 20
_UNUSED = 1 << 64


class Damage(msgspec.Struct, frozen=True):
    """A place in a journal that cannot be read although something behind it can: an alarm for the operator. The
    segment is put aside as `*.damaged`; everything readable in it counts."""

    segment: str  # file name
    offset: int  # −1: the records between the segment before it and this one are missing


class Recovery(msgspec.Struct, frozen=True):
    attempts: list[ClosedAttempt]
    damages: list[Damage]


def recover(journal: Journal, now_ms: int, *, is_whole: bool = False, lets_go: bool = True) -> Recovery:
    """Everything that earlier runs promised and that is not known to be booked; as a whole, also what was booked in the
    last REPLAYED_S in which anything was, since the database may have lost it.

    The journal lets go of their files once all of it has been acknowledged, but for the last that were written to in
    the last REPLAYED_S; of none without `lets_go`, unless one is damaged. Reads some 300,000 records a second."""
    damages: list[Damage] = []
    records = _read(journal.earlier, damages)
    attempts = replay(_without_late_acks(records) if is_whole else records, now_ms)
    names = {damage.segment for damage in damages}
    if lets_go or damages:
        damaged = [path for path in journal.earlier if path.name in names]
        journal.adopt(attempts, damaged, _written_since(journal.earlier, now_ms - 1000 * REPLAYED_S))
    return Recovery(attempts, damages)


def _without_late_acks(records: Iterable[Record]) -> Iterator[Record]:
    """An acknowledgement counts when the attempt ended REPLAYED_S before another that was acknowledged, or earlier: the
    database has lost none of these, and may have let go of their rows since."""
    ended_ms: dict[bytes, int] = {}  # of what has ended and is not acknowledged
    late: deque[tuple[int, bytes]] = deque()
    newest_ms = 0
    for record in records:
        match record:
            case Close():
                ended_ms[record.attempt_id] = record.closed_at_ms
                yield record
            case Ack():
                found = [(ended_ms.pop(one), one) for one in record.attempt_ids if one in ended_ms]
                late.extend(found)
                newest_ms = max(newest_ms, *(at_ms for at_ms, _ in found), 0)
                counting: list[bytes] = []
                while late and late[0][0] < newest_ms - 1000 * REPLAYED_S:
                    counting.append(late.popleft()[1])
                # One that a second CLOSE let end its execution is not known to be booked as that.
                yield Ack(tuple(one for one in counting if one not in ended_ms))
            case _:
                yield record


def closed_since(journal: Journal, since_ms: int) -> Iterator[ClosedAttempt]:
    """What the journal still has of attempts that ended since then, booked or not, of this run and what is kept of
    earlier ones. Blocks; while it reads, the journal may be written, and delete what is the oldest in it."""
    yield from closed_attempts(_read_kept(sorted(journal.paths, key=_place)), since_ms)


def _written_since(paths: Sequence[Path], since_ms: int) -> list[Path]:
    """Those with a record in them, oldest first."""
    recent = [path for path in paths if path.stat().st_mtime_ns >= since_ms * 1_000_000]
    return sorted((path for path in recent if _first_lsn(path) != _UNUSED), key=_place)


def _place(path: Path) -> tuple[int, int]:
    with contextlib.suppress(FileNotFoundError):
        return run_of(path), _first_lsn(path)
    return run_of(path), _UNUSED


def _read_kept(paths: Sequence[Path]) -> Iterator[Record]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            for _, record in read_segment(read_written(path), []):
                yield record


def read_dir(directory: Path) -> Iterator[Record]:
    """Everything readable in a journal's directory, oldest first."""
    yield from _read(segment_paths(directory), [])


def _read(paths: Sequence[Path], damages: list[Damage]) -> Iterator[Record]:
    for _, of_run in itertools.groupby(sorted(paths), run_of):
        lsn_before: int | None = None
        # By LSN, because an emergency segment is made long before it is used.
        for path in sorted(of_run, key=_first_lsn):
            damaged_at: list[int] = []
            for lsn, record in read_segment(read_written(path), damaged_at):
                if lsn_before is not None and lsn != lsn_before + 1 and not damaged_at:
                    damaged_at.append(-1)
                lsn_before = lsn
                yield record
            damages += [Damage(path.name, offset) for offset in damaged_at]


def _first_lsn(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return next((lsn for lsn, _ in read_segment(head, [])), _UNUSED)
