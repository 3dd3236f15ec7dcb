"""A provider's bill against what we booked as its cost, and what the difference means.

The unit is one model of a provider on one day (UTC). Where the bill names each request and we remember how the provider
named its answers, line and attempt are compared one by one:

    named on both sides         the cost becomes the line
    a line, no attempt by name  it may bill an attempt whose end we did not see (a crash): the smallest estimate that it
                                fits into. Otherwise the house bears it, and somebody should ask why: an incident.
    an attempt, no line         nothing is owed for it: its cost becomes zero. Where it was charged, a refund candidate.

Where it says sums only, the sums are compared. What it bills less comes off the estimates first; what it bills more the
house bears. In no case is a customer charged more.

What is decided here depends only on the bill and on the costs as they were first booked, so that importing a bill again
decides the same again, and a later, corrected bill takes back what an earlier one did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date

import msgspec

from waypost.kit.money import NANOS_PER_USD, Nanos
from waypost.ledger.account import AccountKind
from waypost.ledger.bill_file import BillLine

THE_GROUP = b""  # the subject of a correction that belongs to no attempt
TOLERANCE_PER_MILLE = 1
TOLERANCE_NANOS = NANOS_PER_USD


class BookedAttempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt of the group, as it was settled."""

    attempt_id: bytes
    execution_id: bytes
    cogs_nanos: Nanos
    charge_nanos: Nanos
    is_estimated: bool  # its usage was not reported: the cost is a bound or a guess
    answer: bytes  # digest of the provider's name for the answer; b"" when it is not known
    kind: AccountKind = AccountKind.COGS_PROVIDER  # that its cost was booked on


class Group(msgspec.Struct, frozen=True):
    """One model of a provider on one day, reconciled. Costs of attempts that are not named stay as booked."""

    day: date
    model: str
    billed_nanos: Nanos
    booked_nanos: Nanos  # before this and any earlier reconciliation
    lines: int
    attempts: int
    costs: dict[bytes, Nanos]  # attempt → what it really cost, where that is not what was booked
    raised_nanos: Nanos  # billed, and belonging to no attempt: the house bears it
    lowered_nanos: Nanos  # booked as certain, and not billed, no one knows for which attempt
    corrections: dict[tuple[bytes, AccountKind], int]  # (attempt or THE_GROUP, account) → more or less than was booked
    difference_nanos: int  # billed above (or below) what was booked as certain: what neither crash nor guess explains
    unmatched_lines: tuple[BillLine, ...]
    unmatched_attempts: tuple[BookedAttempt, ...]

    @property
    def is_alarming(self) -> bool:
        """Beyond 0.1 % and 1 USD, or a request billed that we know nothing of."""
        tolerated = max(self.billed_nanos * TOLERANCE_PER_MILLE // 1000, TOLERANCE_NANOS)
        return bool(self.unmatched_lines) or abs(self.difference_nanos) > tolerated

    @property
    def refund_candidates(self) -> tuple[BookedAttempt, ...]:
        """Charged to a customer, and not billed by the provider."""
        return tuple(attempt for attempt in self.unmatched_attempts if attempt.charge_nanos)


def reconcile_group(day: date, model: str, lines: Sequence[BillLine], attempts: Sequence[BookedAttempt]) -> Group:
    """Compare one group. `attempts` are those of the group, and those of other days that a line of it names."""
    is_by_request = all(line.answer for line in lines) and any(attempt.answer for attempt in attempts)
    compare = _by_request if is_by_request else _by_sum
    costs, raised, lowered, unmatched_lines, unmatched_attempts = compare(lines, attempts)
    certain = {attempt.attempt_id: attempt.cogs_nanos for attempt in attempts if not attempt.is_estimated}
    moved = sum(cost - certain[attempt_id] for attempt_id, cost in costs.items() if attempt_id in certain)
    group = Group(
        day=day,
        model=model,
        billed_nanos=sum(line.amount_nanos for line in lines),
        booked_nanos=sum(attempt.cogs_nanos for attempt in attempts),
        lines=len(lines),
        attempts=len(attempts),
        costs=costs,
        raised_nanos=raised,
        lowered_nanos=lowered,
        corrections=_corrections(attempts, costs, raised, lowered),
        difference_nanos=raised - lowered + moved,
        unmatched_lines=tuple(unmatched_lines),
        unmatched_attempts=tuple(unmatched_attempts),
    )
    assert group.booked_nanos + sum(group.corrections.values()) == group.billed_nanos, "a group costs what is billed"
    return group


def _corrections(
    attempts: Sequence[BookedAttempt], costs: dict[bytes, Nanos], raised: Nanos, lowered: Nanos
) -> dict[tuple[bytes, AccountKind], int]:
    found: dict[tuple[bytes, AccountKind], int] = {}
    certain: Counter[AccountKind] = Counter()
    for attempt in attempts:
        if attempt.attempt_id in costs:
            found[attempt.attempt_id, attempt.kind] = costs[attempt.attempt_id] - attempt.cogs_nanos
        elif not attempt.is_estimated:
            certain[attempt.kind] += attempt.cogs_nanos
    if raised:
        found[THE_GROUP, AccountKind.HOUSE_UNMATCHED] = raised
    for kind, booked in sorted(certain.items()):
        taken = min(lowered, booked)
        if taken:
            found[THE_GROUP, kind] = -taken
            lowered -= taken
    return found


_Compared = tuple[dict[bytes, Nanos], Nanos, Nanos, Sequence[BillLine], Sequence[BookedAttempt]]


def _by_request(lines: Sequence[BillLine], attempts: Sequence[BookedAttempt]) -> _Compared:
    named = {attempt.answer: attempt for attempt in attempts if attempt.answer}
    costs: dict[bytes, Nanos] = {}
    strangers = []
    for line in lines:
        attempt = named.pop(line.answer, None)
        if attempt is None:
            strangers.append(line)
        elif attempt.cogs_nanos != line.amount_nanos:
            costs[attempt.attempt_id] = line.amount_nanos
    unseen = [attempt for attempt in attempts if not attempt.answer and attempt.cogs_nanos]
    taken, unmatched = _presume(strangers, unseen)
    costs |= {attempt.attempt_id: line.amount_nanos for attempt, line in taken}
    lucky = {attempt.attempt_id for attempt, _ in taken}
    missing = [*named.values(), *(attempt for attempt in unseen if attempt.attempt_id not in lucky)]
    missing = [attempt for attempt in missing if attempt.cogs_nanos]
    costs |= {attempt.attempt_id: 0 for attempt in missing}
    return costs, sum(line.amount_nanos for line in unmatched), 0, unmatched, missing


def _presume(
    lines: Iterable[BillLine], attempts: Iterable[BookedAttempt]
) -> tuple[list[tuple[BookedAttempt, BillLine]], list[BillLine]]:
    """Lines without a name of ours, each with an attempt whose bound covers it; and the lines that fit nowhere.

    The largest first, into the smallest bound that is enough: no other choice finds a place for more of them."""
    free = sorted(attempts, key=lambda attempt: (attempt.cogs_nanos, attempt.attempt_id))
    taken, unmatched = [], []
    for line in sorted(lines, key=lambda line: (-line.amount_nanos, line.key)):
        place = bisect_left(free, line.amount_nanos, key=lambda attempt: attempt.cogs_nanos)
        if place == len(free):
            unmatched.append(line)
        else:
            taken.append((free.pop(place), line))
    return taken, unmatched


def _by_sum(lines: Sequence[BillLine], attempts: Sequence[BookedAttempt]) -> _Compared:
    billed = sum(line.amount_nanos for line in lines)
    booked = sum(attempt.cogs_nanos for attempt in attempts)
    if billed >= booked:
        return {}, billed - booked, 0, () if attempts else [line for line in lines if line.amount_nanos], ()
    costs: dict[bytes, Nanos] = {}
    over = booked - billed
    for attempt in sorted(attempts, key=lambda attempt: attempt.attempt_id, reverse=True):
        if not over:
            break
        if attempt.is_estimated and attempt.cogs_nanos:
            taken = min(over, attempt.cogs_nanos)
            costs[attempt.attempt_id] = attempt.cogs_nanos - taken
            over -= taken
    return costs, 0, over, (), ()
