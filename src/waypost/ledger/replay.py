"""What a journal means after a crash: which attempts the database may not have booked yet, each with one ending.

Replaying twice, or replaying what was booked, is harmless, because booking is idempotent per attempt and per execution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from waypost.kit.values import replace
from waypost.ledger.journal_format import Record
from waypost.ledger.record import Ack, Close, ClosedAttempt, Extend, Grant, Open, Outcome, Progress
from waypost.wire.canonical import Usage


def replay(records: Iterable[Record], now_ms: int) -> list[ClosedAttempt]:
    """What has to be booked (again), from a journal's records in order.

    - A CLOSE that was not acknowledged stands as it is.
    - An OPEN without CLOSE crashed: the caller pays for the input and what was delivered, as the last PROGRESS tells,
      and nothing where none does, or where another attempt followed; the cost is the most the provider may bill, until
      its bill corrects it.
    - An execution none of whose attempts ended it ends, as crashed, with its last attempt. That attempt may be booked
      already; what is new then is the execution's row alone.
    - An attempt on a long hold crashed at what it may have cost, for the house's account alone, and ends nothing: its
      execution goes on, or ends, elsewhere.
    """
    executions: dict[bytes, dict[bytes, _Attempt]] = {}
    attempts: dict[bytes, _Attempt] = {}
    for record in records:
        match record:
            case Open():
                if record.attempt_id not in attempts:
                    attempt = attempts[record.attempt_id] = _Attempt(record)
                    executions.setdefault(record.execution_id, {})[record.attempt_id] = attempt
            case Close() | Progress() | Extend():
                # Without its OPEN it belongs to a segment that is gone, because everything in it was booked.
                if record.attempt_id in attempts:
                    attempts[record.attempt_id].note(record)
            case Ack():
                for attempt_id in record.attempt_ids:
                    if attempt_id in attempts:
                        _acknowledge(attempts[attempt_id], executions, attempts)
            case Grant():
                pass  # the database knows every lease by its node and epoch
    found = [row for execution in executions.values() for row in _endings(execution, now_ms)]
    found.sort(key=lambda row: row.close.closed_at_ms)
    return found


def closed_attempts(records: Iterable[Record], since_ms: int) -> Iterator[ClosedAttempt]:
    """Every attempt that a journal has both records of and that ended since then, whether it was booked or not, as soon
    as it is read. One that a second CLOSE lets end its execution comes twice."""
    opens: dict[bytes, Open] = {}
    closes: dict[bytes, Close] = {}
    for record in records:
        match record:
            case Open():
                opens[record.attempt_id] = record
            case Close():
                opened, earlier = opens.get(record.attempt_id), closes.pop(record.attempt_id, None)
                if opened is None:
                    continue
                close = record if earlier is None else amended(earlier, record)
                if close.is_final or opened.has_long_hold:
                    del opens[record.attempt_id]
                else:
                    closes[record.attempt_id] = close
                if close.closed_at_ms >= since_ms:
                    yield ClosedAttempt(opened, close)
            case _:
                pass


def amended(first: Close, later: Close) -> Close:
    """One ending of two records for the same attempt: the money of the first, the execution's end of the later."""
    if not later.is_final:
        return first
    return replace(first, is_final=True, outcome=later.outcome, status=later.status, error_code=later.error_code)


class _Attempt:
    __slots__ = ("close", "hold_nanos", "is_acknowledged", "open", "progress")

    def __init__(self, opened: Open) -> None:
        self.open = opened
        self.hold_nanos = opened.hold_nanos
        self.progress: Progress | None = None
        self.close: Close | None = None
        self.is_acknowledged = False

    def note(self, record: Close | Progress | Extend) -> None:
        match record:
            case Progress():
                self.progress = record
            case Extend():
                self.hold_nanos = record.hold_nanos
            case Close():
                self.end(record)

    def end(self, record: Close) -> None:
        self.close = record if self.close is None else amended(self.close, record)
        self.is_acknowledged = False


def _acknowledge(
    attempt: _Attempt, executions: dict[bytes, dict[bytes, _Attempt]], attempts: dict[bytes, _Attempt]
) -> None:
    attempt.is_acknowledged = True
    execution = executions[attempt.open.execution_id]
    if _is_ended(execution) and all(one.is_acknowledged for one in execution.values()):
        # Forgotten here, so that reading a long journal takes no more memory than what is unfinished in it.
        del executions[attempt.open.execution_id]
        for attempt_id in execution:
            del attempts[attempt_id]


def _is_ended(execution: dict[bytes, _Attempt]) -> bool:
    """Whether no end is missing here: one that has a long hold ends elsewhere."""
    return any(
        attempt.open.has_long_hold or (attempt.close is not None and attempt.close.is_final)
        for attempt in execution.values()
    )


def _endings(execution: dict[bytes, _Attempt], now_ms: int) -> list[ClosedAttempt]:
    is_ended = _is_ended(execution)
    last = max(execution.values(), key=lambda attempt: attempt.open.attempt_number)
    rows = []
    for attempt in execution.values():
        ends_execution = attempt is last and not is_ended
        if attempt.close is None:
            crashed = _crashed(attempt, now_ms, is_final=ends_execution)
            if attempt is not last:  # an execution is paid by its last attempt alone
                crashed = replace(crashed, charge_nanos=0)
            rows.append(ClosedAttempt(attempt.open, crashed))
        elif ends_execution:
            rows.append(ClosedAttempt(attempt.open, amended(attempt.close, _crashed(attempt, now_ms))))
        elif not attempt.is_acknowledged:
            rows.append(ClosedAttempt(attempt.open, attempt.close))
    return rows


def _crashed(attempt: _Attempt, now_ms: int, *, is_final: bool = True) -> Close:
    opened, progress = attempt.open, attempt.progress
    charge_nanos = 0
    if progress is not None and not opened.has_long_hold:
        charge_nanos = min(progress.charge_nanos, attempt.hold_nanos)
    return Close(
        attempt_id=opened.attempt_id,
        outcome=Outcome.CRASHED,
        is_final=is_final,
        charge_nanos=charge_nanos,
        cogs_nanos=opened.cost_bound_nanos,
        closed_at_ms=max(now_ms, opened.opened_at_ms),  # the clock may have stepped back
        first_content_ms=0,
        status=0,
        error_code="INTERNAL_ERROR",
        usage=Usage(
            input_tokens=0 if progress is None else progress.input_tokens,
            output_tokens=0 if progress is None else progress.output_tokens,
            is_estimated=True,
        ),
    )
